// FerretDB, which speaks MongoDB's protocol, over SQLite files in a folder:
// ferretdb ADDRESS FOLDER [CERTIFICATE KEY [AUTHORITY]].
// With an authority a client must have a certificate of it.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	address, folder, files := os.Args[1], os.Args[2], os.Args[3:]
	listener := ferretdb.ListenerConfig{TCP: address}
	if len(files) > 0 {
		listener = ferretdb.ListenerConfig{
			TLS:         address,
			TLSCertFile: files[0],
			TLSKeyFile:  files[1],
		}
	}
	if len(files) > 2 {
		listener.TLSCAFile = files[2]
	}
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  listener,
		Handler:   "sqlite",
		SQLiteURL: "file:" + folder + "/",
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := server.Run(ctx); err != nil {
		log.Fatal(err)
	}
}
