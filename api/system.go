package api

import (
	"net/http"
	"runtime"

	"github.com/moby/moby/api/types/system"
)

func registerSystem(r *Router, o Options) {
	s := &systemAPI{o}
	r.Handle(http.MethodGet, "/_ping", s.ping) // GET answers HEAD too
	r.Handle(http.MethodGet, "/version", s.version)
	r.Handle(http.MethodGet, "/info", s.info)
}

type systemAPI struct{ o Options }

func (s *systemAPI) ping(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Builder-Version", "2") // BuildKit
	h.Set("Swarm", "inactive")
	if s.o.Swarm != nil {
		h.Set("Swarm", s.o.Swarm.header())
	}
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", "2")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err := w.Write([]byte("OK"))
	return err
}

func (s *systemAPI) version(w http.ResponseWriter, _ *http.Request) error {
	kernel := kernelVersion()
	return writeJSON(w, http.StatusOK, system.VersionResponse{
		Platform:   system.PlatformInfo{Name: "Gantry"},
		Version:    s.o.Version,
		APIVersion: MaxVersion, MinAPIVersion: s.o.MinVersion,
		Os: runtime.GOOS, Arch: runtime.GOARCH, GoVersion: runtime.Version(), KernelVersion: kernel,
		Components: []system.ComponentVersion{{
			Name: "Engine", Version: s.o.Version,
			Details: map[string]string{
				"ApiVersion": MaxVersion, "MinAPIVersion": s.o.MinVersion, "Experimental": "false", "Os": runtime.GOOS,
				"Arch":      runtime.GOARCH,
				"GoVersion": runtime.Version(), "KernelVersion": kernel,
			},
		}},
	})
}
