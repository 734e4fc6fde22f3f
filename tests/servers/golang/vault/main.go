// OpenBao, the free Vault, in memory and unsealed over TLS:
// vault ADDRESS CERTIFICATE KEY TOKEN. It has the two kinds of key-value engines only.
package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/openbao/openbao/builtin/logical/kv"
	vaulthttp "github.com/openbao/openbao/http"
	"github.com/openbao/openbao/internalshared/configutil"
	"github.com/openbao/openbao/sdk/v2/helper/consts"
	"github.com/openbao/openbao/sdk/v2/logical"
	"github.com/openbao/openbao/sdk/v2/physical/inmem"
	"github.com/openbao/openbao/vault"
)

func main() {
	address, certificate, key := os.Args[1], os.Args[2], os.Args[3]
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn})
	storage, err := inmem.NewInmem(nil, logger)
	must(err)
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:        storage,
		Logger:          logger,
		LogicalBackends: map[string]logical.Factory{"kv": kv.Factory},
		BuiltinRegistry: engines{},
	})
	must(err)
	ctx := context.Background()
	seal := &vault.SealConfig{Type: "shamir", SecretShares: 1, SecretThreshold: 1}
	made, err := core.Initialize(ctx, &vault.InitParams{
		BarrierConfig:  seal,
		RecoveryConfig: seal,
	})
	must(err)
	_, err = core.Unseal(made.SecretShares[0])
	must(err)
	// The first line says how to come in, and how to unseal it after a test sealed it.
	fmt.Println(made.RootToken, hex.EncodeToString(made.SecretShares[0]))
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{
		Core:           core,
		ListenerConfig: &configutil.Listener{},
	})
	log.Fatal(http.ListenAndServeTLS(address, certificate, key, handler))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// engines says that there is one kind of engine.
type engines struct{}

func (engines) Contains(name string, kind consts.PluginType) bool {
	return name == "kv" && kind == consts.PluginTypeSecrets
}

func (e engines) Get(name string, kind consts.PluginType) (func() (interface{}, error), bool) {
	made := func() (interface{}, error) { return logical.Factory(kv.Factory), nil }
	return made, e.Contains(name, kind)
}

func (engines) Keys(consts.PluginType) []string { return []string{"kv"} }

func (e engines) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, e.Contains(name, kind)
}
