package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"

	// The "htpasswd" access controller registers itself on import.
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	// The "filesystem" storage driver registers itself on import.
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"

	"github.com/gantry-build/gantry/internal/state"
)

const (
	dataDir    = "data"
	secretFile = "secret"
)

type app = handlers.App

// prepareRoot finds out at the start, with a write and an fsync, whether the
// root can hold anything: distribution would only tell the first pusher.
func prepareRoot(root string) error {
	if root == "" {
		return errors.New("the registry needs a directory for its data; give it a root")
	}
	data := filepath.Join(root, dataDir)
	for _, dir := range []string{root, data} {
		if err := state.Private(dir); err != nil {
			return explainWrite(root, err)
		}
	}
	probe := filepath.Join(root, ".probe")
	if err := state.Write(probe, []byte("can this be written?\n"), 0o600); err != nil {
		return explainWrite(root, err)
	}
	// Another start may have taken its probe, which had the same name, away.
	if err := os.Remove(probe); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return explainWrite(root, err)
	}
	return nil
}

// newApp builds distribution's application. Of its process-wide parts (debug
// server, Prometheus, health checks, OpenTelemetry) none is switched on: they
// would meet those of the process around, or of a second registry.
func newApp(ctx context.Context, o Options) (a *app, err error) {
	root := o.Root
	secret, err := loadSecret(root)
	if err != nil {
		return nil, explainWrite(root, err)
	}
	conf := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem": {"rootdirectory": filepath.Join(root, dataDir)},
		"delete":     {"enabled": o.Htpasswd != "" || isLoopback(o.Addr)},
		"redirect":   {"disable": true},
		// purgeLoop does this: upstream's goroutine cannot be waited for and
		// logs to the process's logrus (registry/storage/purgeuploads.go, v3.1.2).
		"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	if o.Htpasswd != "" {
		conf.Auth = configuration.Auth{"htpasswd": {"realm": "gantry registry", "path": o.Htpasswd}}
	}
	conf.HTTP.Secret = secret
	conf.Catalog.MaxEntries = 1000
	// handlers.NewApp panics on everything that it cannot set up.
	defer func() {
		if p := recover(); p != nil {
			a, err = nil, fmt.Errorf("setting up the registry in %s: %v", root, p)
		}
	}()
	return handlers.NewApp(ctx, conf), nil
}

// loadSecret keeps the key that signs upload URLs over restarts, so that an
// upload which a restart interrupted can be resumed.
func loadSecret(root string) (string, error) {
	unlock, err := state.Lock(filepath.Join(root, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	path := filepath.Join(root, secretFile)
	old, err := os.ReadFile(path)
	if err == nil && len(old) >= 32 {
		return string(old), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading the registry's secret: %w", err)
	}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("making the registry's secret: %w", err)
	}
	secret := hex.EncodeToString(raw)
	return secret, state.Write(path, []byte(secret), 0o600)
}
