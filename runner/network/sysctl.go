package network

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// setSysctls: forwarding for what leaves the bridge; route_localnet so that 127.0.0.1 of the host reaches published
// ports; no router advertisements, with which a container could redirect the host's IPv6 traffic (CVE-2020-13401).
func setSysctls(c Config, log *slog.Logger) error {
	if !c.Internal {
		if err := forwarding(c.IPv6, log); err != nil {
			return err
		}
	}
	if _, err := setSysctl("/proc/sys/net/ipv4/conf/"+c.Device+"/route_localnet", "1"); err != nil {
		return err
	}
	six := "/proc/sys/net/ipv6/conf/" + c.Device
	_, err := setSysctl(six+"/accept_ra", "0")
	if err == nil && c.IPv6 {
		_, err = setSysctl(six+"/disable_ipv6", "0")
	}
	if errors.Is(err, os.ErrNotExist) && !c.IPv6 { // a kernel without IPv6
		return nil
	}
	return err
}

// forwarding switches on what containers need of the host.
func forwarding(ipv6 bool, log *slog.Logger) error {
	const forward, forward6 = "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"
	changed, err := setSysctl(forward, "1")
	if err != nil {
		return err
	}
	if changed {
		log.Info("switched on IPv4 forwarding of the host, which containers need", "file", forward)
	}
	if !ipv6 {
		return nil
	}
	if on, err := os.ReadFile(forward6); err == nil && string(on) == "1\n" {
		return nil
	}
	if err := keepAdvertisements(); err != nil {
		return err
	}
	if _, err := setSysctl(forward6, "1"); err != nil {
		return err
	}
	log.Info("switched on IPv6 forwarding of the host, which containers need", "file", forward6)
	return nil
}

// keepAdvertisements: a host that forwards takes no more router advertisements unless accept_ra is 2, and would lose
// the addresses and routes that it has by them (Documentation/networking/ip-sysctl.rst).
func keepAdvertisements() error {
	files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, f := range files {
		if v, err := os.ReadFile(f); err != nil || string(v) != "1\n" {
			continue
		}
		if _, err := setSysctl(f, "2"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
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
