package network

import (
	"fmt"
	"net"
	"os/exec"
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	needHost(t)
	b := openBridge(t, testOptions(t))
	for i := range 40 {
		s := newSandbox(t, 0)
		s.serve(t, ":80")
		id := fmt.Sprint("c", i)
		t0 := time.Now()
		ep, err := b.Attach(t.Context(), id, s.pid, []Port{{HostPort: 8080, ContainerPort: 80}})
		must(t, err)
		t1 := time.Now()
		n := 0
		for {
			n++
			c, err := net.DialTimeout("tcp4", ep.IP.String()+":80", 10*time.Millisecond)
			if err == nil {
				c.Close()
				break
			}
			if n == 3 {
				o, _ := exec.Command("sh", "-c", "ip -br l; grep . /sys/class/net/*/brport/state; tc qdisc; ip neigh; ip r;nsenter -n -t "+fmt.Sprint(s.pid)+" sh -c 'ip -br l; tc qdisc;ip neigh'").CombinedOutput()
				t.Log(string(o))
			}
			if time.Since(t1) > 5*time.Second {
				t.Log(err)
				o, _ := exec.Command("sh", "-c", "ip a; ip neigh").CombinedOutput()
				t.Log(string(o))
				break
			}
		}
		t.Log("attach", t1.Sub(t0), "reach", time.Since(t1), n)
		{
			must(t, b.Detach(t.Context(), id))
		}
	}
}
