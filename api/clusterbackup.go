package api

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/gantry-build/gantry/exporter/trust"
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/cluster"
	"github.com/gantry-build/gantry/runner/cluster/backup"
	"github.com/gantry-build/gantry/runner/cluster/topology"
)

// BackupHeader has a backup's description, as JSON.
const BackupHeader = "Gantry-Backup"

// backup answers GET /gantry/cluster/backup with an archive of the cluster's state.
func (s *Swarm) backup(w http.ResponseWriter, r *http.Request) error {
	return s.Cluster.Backup(r.Context(), func(about backup.About) io.Writer {
		w.Header().Set("Content-Type", "application/gzip")
		if text, err := json.Marshal(about); err == nil {
			w.Header().Set(BackupHeader, string(text))
		}
		return w
	})
}

// KeyHeader has the key of a locked cluster.
const KeyHeader = "Gantry-Unlock-Key"

// restore answers POST /gantry/cluster/restore?listen=&advertise= whose body is an archive.
func (s *Swarm) restore(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	listen, advertise, err := cluster.Addresses(q.Get("listen"), q.Get("advertise"), false)
	if err != nil {
		return err
	}
	about, err := s.Cluster.Restore(r.Context(), r.Body, cluster.Config{Listen: listen, Advertise: advertise}, r.Header.Get(KeyHeader))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, about)
}

// recover answers POST /gantry/cluster/recover?do=1; without do it only tells what would be.
func (s *Swarm) recover(w http.ResponseWriter, r *http.Request) error {
	st, err := s.Cluster.Recover(r.Context(), r.URL.Query().Get("do") != "")
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, st)
}

// shareRegistries answers POST /gantry/cluster/registries: all nodes are to believe what the body tells of registry hosts. Outside of
// a cluster nothing happens.
func (s *Swarm) shareRegistries(w http.ResponseWriter, r *http.Request) error {
	var told map[string]trust.Entry
	if err := readJSON(r, &told); err != nil {
		return err
	}
	all := map[string]topology.Registry{}
	for host, e := range told {
		clean, err := trust.CheckEntry(host, e)
		if err != nil {
			return fault.Invalid("%v", err)
		}
		all[clean] = topology.Registry(e)
	}
	if err := s.Cluster.ShareRegistries(r.Context(), all); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
