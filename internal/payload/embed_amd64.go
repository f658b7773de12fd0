package payload

import "embed"

//go:embed all:bin/amd64
var packed embed.FS
