module ferretdb

go 1.25

require github.com/FerretDB/FerretDB v1.24.0
