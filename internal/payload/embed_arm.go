package payload

import "embed"

//go:embed all:bin/arm
var packed embed.FS
