package runner

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/process"
	"github.com/gantry-build/gantry/runner/spec"
	"github.com/gantry-build/gantry/runner/volume"

	"github.com/gantry-build/gantry/internal/state"
)

// Record is all that is known of a container, and the content of its container.json. The maps and
// slices of a Record handed out are shared: read them only.
type Record struct {
	ID         string
	Name       string // without Docker's leading slash
	Created    time.Time
	Image      string             // the image's full name, or how the user wrote it
	ImageID    string             // digest of what the name pointed to
	Manifest   ocispec.Descriptor // of the platform that runs
	Platform   ocispec.Platform
	Emulated   bool
	Emulator   string              `json:",omitempty"` // path on the host
	Config     spec.Config         // merged with the image
	HostConfig spec.HostConfig     // as given
	Mounts     []volume.MountPoint `json:",omitempty"`
	Ports      []network.Port      `json:",omitempty"` // asked for
	State      State

	Attachments []Attachment `json:",omitempty"` // to networks; that of its network mode first

	RestartCount    int  `json:",omitempty"` // by policy, since the last start by hand
	ManuallyStopped bool `json:",omitempty"`
}

// Uses tells whether the container was made from the image with this digest, or has it mounted.
func (r Record) Uses(image string) bool {
	return r.ImageID == image || slices.ContainsFunc(r.Mounts, func(p volume.MountPoint) bool { return p.ImageID == image })
}

// NamesImage tells whether the container was made from its image by this full name, with a digest besides or without.
func (r Record) NamesImage(name string) bool {
	ref, err := reference.ParseNormalizedNamed(r.Config.Image)
	if err != nil {
		return false
	}
	ref = reference.TagNameOnly(ref)
	if tagged, ok := ref.(reference.Tagged); ok {
		if with, err := reference.WithTag(reference.TrimNamed(ref), tagged.Tag()); err == nil && with.String() == name {
			return true
		}
	}
	return ref.String() == name
}

// State is a container's state. Running includes paused and, as in Docker, waiting for a restart.
type State struct {
	Running    bool
	Paused     bool `json:",omitempty"`
	Restarting bool `json:",omitempty"`
	Removing   bool `json:",omitempty"`
	OOMKilled  bool `json:",omitempty"`
	Pid        int  `json:",omitempty"`
	ExitCode   int
	Error      string `json:",omitempty"` // why the last start failed
	StartedAt  time.Time
	FinishedAt time.Time
	Health     *process.Health `json:",omitempty"`
}

// Status is the state in one word: created, running, paused, restarting, removing or exited.
func (s State) Status() string {
	switch {
	case s.Removing:
		return "removing"
	case s.Restarting:
		return "restarting"
	case s.Paused:
		return "paused"
	case s.Running:
		return "running"
	case s.StartedAt.IsZero() && s.Error == "":
		return "created"
	}
	return "exited"
}

// save writes the record. The caller holds c.mu.
func (c *container) save() error {
	data, err := json.MarshalIndent(&c.rec, "", "\t")
	if err != nil {
		return err
	}
	if err := state.Write(filepath.Join(c.dir, "container.json"), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

func readRecord(dir string) (Record, error) {
	var r Record
	data, err := os.ReadFile(filepath.Join(dir, "container.json"))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", filepath.Join(dir, "container.json"), err)
	}
	return r, nil
}
