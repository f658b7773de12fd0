package main

import "testing"

func TestTry(t *testing.T) {
	m := newMachine(t, "arm-6.1")
	m.table()
	m.images()
	_, p := m.platforms()
	t.Log(m.run("gantry build -q --platform " + p + " -t web /ctx; time gantry run -d --restart always --name web --platform " + p + " -p 8080:8080 web"))
	m.answers("machine amd64")
	t.Log(m.run("cat /var/lib/gantry/containers/*/container.json | grep -E 'Emul|Runn|Restart'; ls /binfmt;ps | grep -v '\\['"))
	m.limits(p, "web")
	t.Log(m.run("cat /var/lib/gantry/containers/*/container.json | grep -E 'Emul|Runn|Restart'; ls /binfmt;ps | grep -v '\\['"))
	t.Log(m.run("gantry daemon status; gantry daemon stop; cat /var/lib/gantry/containers/*/container.json; ls /binfmt; ps | grep -v '\\['; tail -20 /var/lib/gantry/daemon.log"))
}
