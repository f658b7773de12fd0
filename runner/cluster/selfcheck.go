package cluster

import (
	"context"
	"sync/atomic"
	"time"
)

// checkEvery is how often a node compares what the kernel has of the cluster's networks with what it should have.
const checkEvery = 15 * time.Second

// repairs counts what was wrong since the daemon has begun.
var repairs atomic.Int64

// Repairs is how many mistakes in the kernel's part of the cluster's networks were found and put right since the daemon has begun:
// devices, ways to other nodes, published ports. Somebody else changes them when it grows.
func Repairs() int64 { return repairs.Load() }

// check looks after the networks until ctx ends.
func (n *networks) check(ctx context.Context) {
	if n.o.Network == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(checkEvery):
		}
		for _, k := range n.snapshot() {
			n.repair(ctx, k.ID, k.Ingress)
		}
	}
}

func (n *networks) repair(ctx context.Context, id string, ingress bool) {
	n.applying.Lock()
	defer n.applying.Unlock()
	wrong, err := n.o.Runner.Repair(ctx, id)
	n.mu.Lock()
	published := n.toldOff != ""
	n.mu.Unlock()
	if ingress && published && err == nil {
		var has bool
		if has, err = n.o.Network.HasMesh(); err == nil && !has {
			wrong++
			n.mu.Lock()
			n.toldOff = "" // and so it is written by the next apply
			n.mu.Unlock()
		}
	}
	if err != nil {
		n.o.Log.Warn("a network of the cluster's could not be checked", "network", id, "error", err)
	}
	if wrong == 0 {
		return
	}
	repairs.Add(int64(wrong))
	n.o.Log.Warn("what the kernel has of a network of the cluster's was not as it should be, and is put right", "network", id,
		"wrong", wrong)
	if err := n.applyLocked(); err != nil {
		n.o.Log.Warn("a network of the cluster's could not be put right", "network", id, "error", err)
	}
}
