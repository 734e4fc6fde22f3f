module consul

go 1.25

require (
	github.com/hashicorp/consul v1.19.2
	github.com/hashicorp/go-discover v0.0.0
)

replace github.com/hashicorp/go-discover => ../discover
