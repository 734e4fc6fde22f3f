module telegraf

go 1.25

require github.com/influxdata/telegraf v1.36.0
