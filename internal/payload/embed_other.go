//go:build !amd64 && !arm && !arm64

package payload

import "embed"

// packed has nothing: no programs are made for this architecture.
var packed embed.FS
