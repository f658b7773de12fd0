package cluster

import (
	"io"
	"os"

	"google.golang.org/grpc/grpclog"
)

// SwarmKit has all of gRPC in the process log through logrus, at its level for users (log/grpc.go): every command that builds
// would tell of its connections. This is gRPC's own way again, errors alone.
func init() { grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, os.Stderr)) }
