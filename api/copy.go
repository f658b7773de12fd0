package api

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"

	"github.com/containerd/continuity/fs"
	"github.com/moby/moby/api/types/container"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

// getArchive answers HEAD and GET /containers/{id}/archive: what is at a path, and a tar of it.
func (c *containersAPI) getArchive(w http.ResponseWriter, r *http.Request) error {
	path := r.URL.Query().Get("path")
	if path == "" {
		return fault.Invalid("bad parameter: 'path' cannot be empty")
	}
	if r.Method == http.MethodHead {
		st, err := c.m.StatPath(r.Context(), r.PathValue("id"), path)
		if err != nil {
			return err
		}
		return describe(w, st)
	}
	return c.m.Archive(r.Context(), r.PathValue("id"), path, func(st runner.PathStat) io.Writer {
		_ = describe(w, st)
		w.Header().Set("Content-Type", "application/x-tar")
		return w
	})
}

// describe puts what is at a path into the header.
func describe(w http.ResponseWriter, st runner.PathStat) error {
	text, err := json.Marshal(container.PathStat{Name: st.Name, Size: st.Size, Mode: st.Mode, Mtime: st.Mtime, LinkTarget: st.LinkTarget})
	if err == nil {
		w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(text))
	}
	return err
}

// putArchive answers PUT /containers/{id}/archive: unpacks a tar into a directory.
func (c *containersAPI) putArchive(w http.ResponseWriter, r *http.Request) error {
	path := r.URL.Query().Get("path")
	if path == "" {
		return fault.Invalid("bad parameter: 'path' cannot be empty")
	}
	o := runner.ExtractOptions{KeepKinds: flag(r, "noOverwriteDirNonDir"), Own: flag(r, "copyUIDGID")}
	if err := c.m.Extract(r.Context(), r.PathValue("id"), path, o, r.Body); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (c *containersAPI) export(w http.ResponseWriter, r *http.Request) error {
	if _, err := c.m.Get(r.PathValue("id")); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	return c.m.Export(r.Context(), r.PathValue("id"), w)
}

// kinds are changes in the API's numbers.
var kinds = map[fs.ChangeKind]container.ChangeType{
	fs.ChangeKindModify: container.ChangeModify, fs.ChangeKindAdd: container.ChangeAdd, fs.ChangeKindDelete: container.ChangeDelete,
}

func (c *containersAPI) changes(w http.ResponseWriter, r *http.Request) error {
	all, err := c.m.Changes(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	out := []container.FilesystemChange{}
	for _, ch := range all {
		out = append(out, container.FilesystemChange{Path: ch.Path, Kind: kinds[ch.Kind]})
	}
	return writeJSON(w, http.StatusOK, out)
}

// update answers POST /containers/{id}/update: other limits and another restart policy.
func (c *containersAPI) update(w http.ResponseWriter, r *http.Request) error {
	var body container.UpdateConfig
	if err := readJSON(r, &body); err != nil {
		return err
	}
	var u runner.Update
	if err := translate("Resources", body.Resources, &u.Resources); err != nil {
		return err
	}
	if err := translate("RestartPolicy", body.RestartPolicy, &u.RestartPolicy); err != nil {
		return err
	}
	if before(r, "1.40") {
		u.Resources.PidsLimit = nil
	}
	warnings, err := c.m.Update(r.Context(), r.PathValue("id"), u)
	if err != nil {
		return err
	}
	if warnings == nil {
		warnings = []string{}
	}
	return writeJSON(w, http.StatusOK, container.UpdateResponse{Warnings: warnings})
}
