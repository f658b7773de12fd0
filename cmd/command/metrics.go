package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gantry-build/gantry/cmd/thin"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/cluster"
)

// serveMetrics answers /metrics at an address, HOST:PORT, in Prometheus's text format: what dockerd's endpoint has of
// containers, under the same names, and what SwarmKit counts of a cluster (docs.docker.com/engine/daemon/prometheus).
func (d *daemon) serveMetrics(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("metrics-addr: %w", err)
	}
	all := prometheus.NewRegistry()
	all.MustRegister(containerMetrics{d.runner}, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "engine_daemon_engine_info", Help: "The information related to the engine and the OS it is running on",
		ConstLabels: prometheus.Labels{"version": thin.Version, "architecture": machine(), "os_type": "linux", "daemon_id": d.facts().ID},
	}, func() float64 { return 1 }), prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "gantry_cluster_network_repairs_total",
		Help: "What was wrong in the kernel's part of the cluster's networks, and was put right",
	}, func() float64 { return float64(cluster.Repairs()) }))
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(prometheus.Gatherers{all, prometheus.DefaultGatherer}, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("metrics are not served any more", "error", err)
		}
	}()
	d.closers = append(d.closers, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-done
	})
	d.log.Info("metrics are served", "address", "http://"+l.Addr().String()+"/metrics")
	return nil
}

// containerMetrics counts containers by their state.
type containerMetrics struct{ runner *runner.Manager }

var containerStates = prometheus.NewDesc("engine_daemon_container_states_containers",
	"The count of containers in various states", []string{"state"}, nil)

func (c containerMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- containerStates }

func (c containerMetrics) Collect(ch chan<- prometheus.Metric) {
	counts := map[string]int{"paused": 0, "running": 0, "stopped": 0}
	for _, rec := range c.runner.List() {
		switch {
		case rec.State.Paused:
			counts["paused"]++
		case rec.State.Running:
			counts["running"]++
		default:
			counts["stopped"]++
		}
	}
	for state, n := range counts {
		ch <- prometheus.MustNewConstMetric(containerStates, prometheus.GaugeValue, float64(n), state)
	}
}
