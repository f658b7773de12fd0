package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/swarmkit/v2/api"
	"google.golang.org/grpc"
)

// Manager is how the cluster is looked at and changed.
type Manager struct {
	api.ControlClient
	Logs api.LogsClient
	CA   api.CAClient
	conn *grpc.ClientConn
}

// Watch tells of the cluster's changes.
func (m Manager) Watch(ctx context.Context, req *api.WatchRequest) (api.Watch_WatchClient, error) {
	return api.NewWatchClient(m.conn).Watch(ctx, req)
}

// Manager returns the cluster's control, or why there is none here.
func (c *Cluster) Manager() (Manager, error) {
	m := c.current()
	if m == nil {
		return Manager{}, ErrNoManager
	}
	conn, st := m.connection(), m.status()
	switch {
	case conn != nil:
		return Manager{
			ControlClient: api.NewControlClient(conn), Logs: api.NewLogsClient(conn), CA: api.NewCAClient(conn), conn: conn,
		}, nil
	case st.State == Locked:
		return Manager{}, ErrLocked
	case errors.Is(st.Err, ErrExpired):
		return Manager{}, ErrExpired
	case st.Manager:
		return Manager{}, ErrNoLeader
	case st.State == Failed:
		return Manager{}, errdefs.ErrUnavailable.WithMessage("this node does not take part in its cluster now: " + st.Err.Error())
	}
	return Manager{}, ErrWorker
}

func (c *Cluster) untilManager(ctx context.Context, atMost time.Duration) (Manager, error) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for {
		m, err := c.Manager()
		if err == nil {
			var found *api.ListClustersResponse
			if found, err = m.ListClusters(ctx, &api.ListClustersRequest{}); err == nil && len(found.Clusters) > 0 {
				return m, nil
			}
		}
		select {
		case <-ctx.Done():
			return Manager{}, errors.Join(context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
