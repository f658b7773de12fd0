package network

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/check"
	"github.com/gantry-build/gantry/runner/network/netns"
)

// Check finds out whether the kernel and the host's own firewall let a network work. It leaves nothing
// behind, and needs root.
func Check(o Options) []check.Finding {
	all := []check.Finding{checkDevices(), checkTables(o.Table), checkForwarding()}
	h := &Host{opts: o, rules: newRuleset(o.Table), log: slog.Default()}
	defer h.rules.close()
	return append(all, h.checkFirewall())
}

// checkDevices tries the kinds of devices, in a network namespace of no use to anyone else.
func checkDevices() (found check.Finding) {
	const subject = "network devices"
	err := netns.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		found = tryDevices(subject)
		return nil
	})
	if err != nil {
		return check.Finding{Subject: subject, Text: "no network namespace can be made: " + err.Error(), Next: "run it as root"}
	}
	return found
}

func tryDevices(subject string) check.Finding {
	probe := netlink.LinkAttrs{Name: "probe"}
	for _, kind := range []struct {
		module string
		link   netlink.Link
	}{
		{"bridge", &netlink.Bridge{LinkAttrs: probe}},
		{"veth", &netlink.Veth{LinkAttrs: probe, PeerName: probe.Name + "p"}},
	} {
		err := netlink.LinkAdd(kind.link)
		if err == nil {
			err = netlink.LinkDel(kind.link)
		}
		if err != nil {
			return lacking(subject, kind.module, err)
		}
	}
	return check.OK(subject, "bridge, veth")
}

func checkTables(table string) check.Finding {
	const subject = "nftables"
	var found []string
	for _, f := range features() {
		if err := f.try(table + "_probe"); err != nil {
			return lacking(subject, f.module, err)
		}
		found = append(found, f.module)
	}
	return check.OK(subject, strings.Join(found, ", "))
}

// lacking is what needs would say, as a finding.
func lacking(subject, module string, err error) check.Finding {
	text, next, _ := strings.Cut(needs(module, err).Error(), "; ")
	if next == "" {
		next = "see what the kernel's log says (dmesg)"
	}
	return check.Finding{Subject: subject, Text: text, Next: next}
}

func checkForwarding() check.Finding {
	const subject, file = "forwarding", "/proc/sys/net/ipv4/ip_forward"
	on, err := os.ReadFile(file)
	switch {
	case err != nil:
		return check.Finding{Subject: subject, Text: err.Error(), Next: "mount proc at /proc"}
	case strings.TrimSpace(string(on)) == "1":
		return check.OK(subject, "on")
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return check.Finding{Subject: subject, Text: "off, and can't be switched on here: " + err.Error(),
			Next: "run on the host: sysctl -w net.ipv4.ip_forward=1"}
	}
	f.Close()
	return check.OK(subject, "off; the daemon switches it on with the first container")
}

// checkFirewall looks for rules of others that drop what containers send.
func (h *Host) checkFirewall() check.Finding {
	const subject = "firewall"
	chains, err := h.rules.droppers()
	switch {
	case err != nil:
		return check.Finding{Subject: subject, Text: err.Error(), Next: "run it as root"}
	case len(chains) == 0:
		return check.OK(subject, "nobody drops forwarded packets")
	}
	var names []string
	for _, c := range chains {
		names = append(names, fmt.Sprintf("chain %s of table %s", c.Name, c.Table.Name))
	}
	return check.OK(subject, strings.Join(names, ", ")+" drops forwarded packets; containers have rules there that let theirs pass")
}
