package payload

import "embed"

//go:embed all:bin/arm64
var packed embed.FS
