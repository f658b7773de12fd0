package api

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// The networks that are always there are listed and shown with the containers in them, and keep their IDs.
func TestNetworks(t *testing.T) {
	dir := testDir(t)
	prepare(t, dir)
	t.Cleanup(func() { tidy(t, dir) })
	kill := spawn(t, dir)
	c := connect(t, dir)
	ctx := t.Context()
	list := func(filters client.Filters) (names string, ids map[string]string) {
		t.Helper()
		got, err := c.NetworkList(ctx, client.NetworkListOptions{Filters: filters})
		if err != nil {
			t.Fatal(err)
		}
		ids = map[string]string{}
		for _, n := range got.Items {
			names += n.Name + "/" + n.Driver + "/" + n.Scope + " "
			ids[n.Name] = n.ID
		}
		return strings.TrimSpace(names), ids
	}
	names, ids := list(nil)
	if names != "bridge/bridge/local host/host/local none/null/local" || len(ids["bridge"]) != 64 || ids["bridge"] == ids["host"] {
		t.Errorf("%s, %v", names, ids)
	}
	id := start(t, c, "ticker", container.HostConfig{}, "tick")
	in, err := c.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mine := in.Container.NetworkSettings.Networks["bridge"]
	for _, ref := range []string{"bridge", ids["bridge"], ids["bridge"][:8]} {
		n, err := c.NetworkInspect(ctx, ref, client.NetworkInspectOptions{Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		ep := n.Network.Containers[id]
		if n.Network.ID != mine.NetworkID || ep.Name != "ticker" || ep.IPv4Address.Addr() != mine.IPAddress ||
			ep.MacAddress.String() != mine.MacAddress.String() || !n.Network.IPAM.Config[0].Subnet.Contains(mine.IPAddress) ||
			n.Network.IPAM.Config[0].Gateway != mine.Gateway {
			t.Errorf("%s: %+v; the container says %+v", ref, n.Network, mine)
		}
	}
	for filter, want := range map[string]string{
		"name=o": "host/host/local none/null/local", "driver=null": "none/null/local", "id=" + ids["host"][:12]: "host/host/local",
		"dangling=true": "", "type=custom": "", "scope=swarm": "", "label=x": "",
	} {
		k, v, _ := strings.Cut(filter, "=")
		if got, _ := list(client.Filters{}.Add(k, v)); got != want {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
	for _, by := range []string{"bridge", ids["bridge"]} {
		got, err := c.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("network", by)})
		if err != nil || len(got.Items) != 1 || got.Items[0].NetworkSettings.Networks["bridge"].NetworkID != ids["bridge"] {
			t.Errorf("containers in %s: %+v, %v", by, got.Items, err)
		}
	}
	refusals(t, c)
	if got, err := c.NetworkPrune(ctx, client.NetworkPruneOptions{}); err != nil || len(got.Report.NetworksDeleted) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	kill()
	spawn(t, dir)
	c = connect(t, dir)
	if _, again := list(nil); again["bridge"] != ids["bridge"] || again["none"] != ids["none"] {
		t.Errorf("IDs were %v, are %v", ids, again)
	}
}

// What happens to networks is told, with Docker's words, and a network that is made has what was asked of it.
func TestNetworkLife(t *testing.T) {
	_, c := run(t)
	ctx := t.Context()
	ev := c.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.Add("type", "network")})
	id := start(t, c, "ticker", container.HostConfig{}, "tick")
	made, err := c.NetworkCreate(ctx, "mine", client.NetworkCreateOptions{
		EnableIPv6: ptr(true), Labels: map[string]string{"of": "test"},
		IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.214.0.0/24"),
			IPRange: netip.MustParsePrefix("10.214.0.64/26")}}},
		Options: map[string]string{"com.docker.network.driver.mtu": "1400"},
	})
	if err != nil {
		t.Fatal(err)
	}
	mac := network.HardwareAddr{2, 0, 0, 0, 0, 9}
	_, err = c.NetworkConnect(ctx, "mine", client.NetworkConnectOptions{Container: "ticker", EndpointConfig: &network.EndpointSettings{
		Aliases: []string{"tock"}, MacAddress: mac, GwPriority: 1,
	}})
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ep := in.Container.NetworkSettings.Networks["mine"]
	if ep == nil || ep.IPAddress.String() != "10.214.0.64" || !ep.GlobalIPv6Address.Is6() || ep.MacAddress.String() != mac.String() ||
		ep.NetworkID != made.ID || ep.EndpointID == "" || ep.DNSNames[0] != "ticker" || ep.DNSNames[1] != "tock" {
		t.Errorf("%+v", ep)
	}
	n, err := c.NetworkInspect(ctx, "mine", client.NetworkInspectOptions{})
	if err != nil || n.Network.Containers[id].IPv6Address.Addr() != ep.GlobalIPv6Address ||
		n.Network.Options["com.docker.network.driver.mtu"] != "1400" ||
		n.Network.Status.IPAM.Subnets[netip.MustParsePrefix("10.214.0.0/24")].IPsInUse != 4 {
		t.Errorf("%+v, %v", n.Network, err)
	}
	if _, err := c.NetworkDisconnect(ctx, "mine", client.NetworkDisconnectOptions{Container: "ticker"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.NetworkRemove(ctx, made.ID[:10], client.NetworkRemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"connect bridge", "create mine", "connect mine", "disconnect mine", "destroy mine"} {
		select {
		case m := <-ev.Messages:
			if got := string(m.Action) + " " + m.Actor.Attributes["name"]; got != want || strings.Contains(want, "connect") &&
				m.Actor.Attributes["container"] != id {
				t.Errorf("%s %v, want %s", m.Action, m.Actor.Attributes, want)
			}
		case err := <-ev.Err:
			t.Fatal(err)
		case <-time.After(10 * time.Second):
			t.Fatalf("no word of %s", want)
		}
	}
}

func refusals(t *testing.T, c *client.Client) {
	t.Helper()
	ctx := t.Context()
	for want, err := range map[string]error{
		"network lost not found":                                second(c.NetworkInspect(ctx, "lost", client.NetworkInspectOptions{})),
		"host is a pre-defined network and cannot be removed":   second(c.NetworkRemove(ctx, "host", client.NetworkRemoveOptions{})),
		"operation is not permitted on predefined none network": second(c.NetworkCreate(ctx, "none", client.NetworkCreateOptions{})),
		"invalid value for filter 'type'": second(c.NetworkList(ctx,
			client.NetworkListOptions{Filters: client.Filters{}.Add("type", "own")})),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := c.NetworkInspect(ctx, "lost", client.NetworkInspectOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}
