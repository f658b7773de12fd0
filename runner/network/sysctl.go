package network

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
)

// setSysctls: forwarding for what leaves the bridge; route_localnet so that 127.0.0.1 of the host reaches published
// ports; no router advertisements, with which a container could redirect the host's IPv6 traffic (CVE-2020-13401).
func setSysctls(bridge string, log *slog.Logger) error {
	const forward = "/proc/sys/net/ipv4/ip_forward"
	changed, err := setSysctl(forward, "1")
	if err != nil {
		return err
	}
	if changed {
		log.Info("switched on IPv4 forwarding of the host, which containers need", "file", forward)
	}
	if _, err := setSysctl("/proc/sys/net/ipv4/conf/"+bridge+"/route_localnet", "1"); err != nil {
		return err
	}
	_, err = setSysctl("/proc/sys/net/ipv6/conf/"+bridge+"/accept_ra", "0")
	if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return nil
	}
	return err
}

func setSysctl(path, value string) (changed bool, err error) {
	old, err := os.ReadFile(path)
	if err == nil && string(old) == value+"\n" {
		return false, nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0o644)
	}
	if err != nil {
		return false, fmt.Errorf("setting a kernel parameter: %w; set it to %s on the host if /proc/sys is read-only", err, value)
	}
	return true, nil
}
