package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseMounts(t *testing.T) {
	const rest = "25 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n" +
		"26 25 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n"
	for name, c := range map[string]struct {
		mountinfo string
		want      []Hierarchy
	}{
		"none": {rest, nil},
		"version 1, controllers together, one mounted twice": {
			rest + "30 26 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n" +
				"31 26 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"32 26 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd\n" +
				"33 26 0:27 / /mnt/memory rw - cgroup cgroup rw,memory\n",
			[]Hierarchy{
				{Mount: "/sys/fs/cgroup/cpu,cpuacct", Options: "cpu,cpuacct"},
				{Mount: "/sys/fs/cgroup/memory", Options: "memory"},
				{Mount: "/sys/fs/cgroup/systemd", Options: "name=systemd"},
			},
		},
		"version 2": {
			"30 26 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
			[]Hierarchy{{Mount: "/sys/fs/cgroup", Unified: true}},
		},
		"version 2 beside version 1 has no controllers": {
			"30 26 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" +
				"31 26 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
			[]Hierarchy{{Mount: "/sys/fs/cgroup/pids", Options: "pids"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, parseMounts(c.mountinfo)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHolds(t *testing.T) {
	g := Group{name: "a-1"}
	for groups, want := range map[string]bool{
		"4:memory:/keyturn/a-1\n":            true,
		"4:memory:/x\n0::/keyturn/a-1/pod\n": true,
		"4:memory:/keyturn/a-10\n":           false,
		"4:memory:/keyturn/b/keyturn/a-1x\n": false,
		"4:memory:/\n":                       false,
	} {
		if got := g.holds(groups); got != want {
			t.Errorf("holds(%q) = %t", groups, got)
		}
	}
}

func TestGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("control groups need root")
	}
	g, err := Open(fmt.Sprintf("test-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if gone, err := g.Remove(); !gone || err != nil {
		t.Errorf("removing what never was: %t, %v", gone, err)
	}
	for range 2 {
		if err := g.Ensure(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	sleeper := startIn(t, g)
	if pids, err := g.Processes(); err != nil || len(pids) != 1 || pids[0] != sleeper.Process.Pid {
		t.Errorf("processes are %v, %v; want %d", pids, err, sleeper.Process.Pid)
	}
	if gone, err := g.Remove(); gone || err != nil {
		t.Errorf("removing it with a process in it: %t, %v", gone, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sleeper.Wait() }()
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process ended with %v", err)
	}
	for gone := false; !gone; {
		if gone, err = g.Remove(); err != nil || ctx.Err() != nil {
			t.Fatalf("removing it: %v, %v", err, ctx.Err())
		}
	}
	if g.Exists() {
		t.Error("it exists")
	}
}

// startIn starts a process in a child of the group, in every hierarchy.
func startIn(t *testing.T, g Group) *exec.Cmd {
	t.Helper()
	var script strings.Builder
	for _, tree := range g.Hierarchies() {
		dir := g.dir(tree) + "/child"
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := inheritCPUs(g.dir(tree), dir); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&script, "echo $$ > %s/cgroup.procs && ", dir)
	}
	cmd := exec.Command("/bin/sh", "-c", script.String()+"echo in && exec sleep 600")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 2)); err != nil {
		t.Fatalf("the process did not join: %v", err)
	}
	return cmd
}
