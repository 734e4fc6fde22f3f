// go.sum has what OpenBao's own says of three modules that the public checksum
// database does not know.
module vault

go 1.25

require (
	// Version 2.4.0, which has no semantic version in the proxy.
	github.com/openbao/openbao v0.0.0-20250828202315-f9407a27fbee
	github.com/openbao/openbao/api/v2 v2.4.0
	github.com/openbao/openbao/sdk/v2 v2.4.0
	github.com/hashicorp/go-discover v0.0.0
)

replace github.com/hashicorp/go-discover => ../discover
