module gelf

go 1.25

require gopkg.in/Graylog2/go-gelf.v2 v2.0.0-20191017102106-1550ee647df0
