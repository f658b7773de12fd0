package executor

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"

	"github.com/gantry-build/gantry/runner/spec"
)

// secretsDir is where a container finds its secrets that have a plain name.
const secretsDir = "/run/secrets"

// file is a secret or a config as a container sees it.
type file struct {
	target string
	data   []byte
	of     *api.FileTarget
}

// writeFiles writes a task's secrets and configs below dir, which is in memory, each as the task wants it, and gives the
// mounts by which its container sees them.
func writeFiles(dir string, s *api.ContainerSpec, deps exec.DependencyGetter) (mounts []spec.MountRequest, err error) {
	files, err := filesOf(s, deps)
	if err != nil || len(files) == 0 {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	for i, f := range files {
		at := filepath.Join(dir, strconv.Itoa(i))
		if err := f.write(at); err != nil {
			return nil, err
		}
		mounts = append(mounts, spec.MountRequest{Type: "bind", Source: at, Target: f.target, ReadOnly: true})
	}
	return mounts, nil
}

func filesOf(s *api.ContainerSpec, deps exec.DependencyGetter) (all []file, err error) {
	for _, ref := range s.Secrets {
		secret, err := deps.Secrets().Get(ref.SecretID)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", ref.SecretName, err)
		}
		if to := ref.GetFile(); to != nil {
			all = append(all, file{targetOf(to.Name, secretsDir), secret.Spec.Data, to})
		}
	}
	for _, ref := range s.Configs {
		config, err := deps.Configs().Get(ref.ConfigID)
		if err != nil {
			return nil, fmt.Errorf("config %s: %w", ref.ConfigName, err)
		}
		if to := ref.GetFile(); to != nil { // else it is there for the runtime only
			all = append(all, file{targetOf(to.Name, "/"), config.Spec.Data, to})
		}
	}
	return all, nil
}

func targetOf(name, dir string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(dir, name)
}

// write makes the file with its owner and mode, which nobody else sees before.
func (f file) write(at string) error {
	uid, err := strconv.Atoi(f.of.UID)
	if err != nil {
		return fmt.Errorf("%s: the user %q is no number", f.target, f.of.UID)
	}
	gid, err := strconv.Atoi(f.of.GID)
	if err != nil {
		return fmt.Errorf("%s: the group %q is no number", f.target, f.of.GID)
	}
	if err := os.WriteFile(at, f.data, 0o600); err != nil {
		return err
	}
	if err := os.Chown(at, uid, gid); err != nil {
		return err
	}
	return os.Chmod(at, f.of.Mode.Perm())
}
