package api

import (
	"net/http"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/exporter/layer"
	"github.com/gantry-build/gantry/exporter/rootfs"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/spec"
)

// commit answers POST /commit: an image of a container, with what it has changed.
func (i *Images) commit(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	var body *container.Config
	if err := readJSON(r, &body); err != nil {
		return err
	}
	o := rootfs.CommitOptions{Author: q.Get("author"), Comment: q.Get("comment")}
	if q.Get("repo") != "" {
		name, err := fullName(q.Get("repo"), q.Get("tag"))
		if err != nil {
			return err
		}
		o.Name = name
	}
	pause := q.Get("pause") == "" || flag(r, "pause")
	var target ocispec.Descriptor
	err := i.Containers.Frozen(r.Context(), q.Get("container"), pause, func(rec runner.Record, image, own []mount.Mount) (err error) {
		if o.Config, err = i.committed(body, rec.Config, q["changes"]); err != nil {
			return err
		}
		o.Base, o.CreatedBy = rec.Manifest, strings.Join(rec.Config.Args(), " ")
		if target, err = rootfs.Commit(r.Context(), i.Store, layer.Diff(image, own), o); err == nil {
			i.Containers.Committed(rec, target.Digest.String(), o.Name)
		}
		return err
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.CommitResponse{ID: target.Digest.String()})
}

// committed is the configuration of an image that is made of a container: the container's, but for what the client says.
func (i *Images) committed(body *container.Config, of spec.Config, changes []string) (cfg dockerspec.DockerOCIImageConfig, err error) {
	if body != nil {
		var asked spec.Config
		if err := translate("Config", body, &asked); err != nil {
			return cfg, err
		}
		var own spec.Image
		if err := toAPI(of, &own); err != nil {
			return cfg, err
		}
		of = spec.Merge(asked, own)
	}
	if err := toAPI(of, &cfg); err != nil {
		return cfg, err
	}
	return cfg, i.change(&cfg, changes)
}

func (i *Images) change(cfg *dockerspec.DockerOCIImageConfig, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	return i.Change(cfg, lines)
}
