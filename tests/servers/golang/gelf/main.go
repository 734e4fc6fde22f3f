// Graylog's own GELF reader on a UDP address; each message becomes a line of a file.
package main

import (
	"encoding/json"
	"log"
	"os"

	"gopkg.in/Graylog2/go-gelf.v2/gelf"
)

func main() {
	file, err := os.OpenFile(os.Args[2], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	reader, err := gelf.NewReader(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	log.Print("listening")
	output := json.NewEncoder(file)
	for {
		message, err := reader.ReadMessage()
		if err != nil {
			log.Print(err)
			continue
		}
		// A Message leaves its Extra out of its own JSON.
		line := map[string]any{
			"version":       message.Version,
			"host":          message.Host,
			"short_message": message.Short,
			"full_message":  message.Full,
			"timestamp":     message.TimeUnix,
			"level":         message.Level,
			"facility":      message.Facility,
		}
		for name, value := range message.Extra {
			line[name] = value
		}
		if err := output.Encode(line); err != nil {
			log.Fatal(err)
		}
	}
}
