package e2e

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// proc is a process as /proc shows it.
type proc struct {
	pid, parent int
	name        string
	command     string
}

// processes returns the processes of the place: those whose command line names its data directory, and all below
// them, in machines too.
func (p *place) processes() []proc {
	p.t.Helper()
	all := map[int]proc{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if found, ok := readProc(pid); ok {
				all[pid] = found
			}
		}
	}
	var ours []proc
	for _, candidate := range all {
		for at, ok := candidate, true; ok; at, ok = all[at.parent] {
			if strings.Contains(at.command, p.dataDir()) {
				ours = append(ours, candidate)
				break
			}
		}
	}
	slices.SortFunc(ours, func(a, b proc) int { return a.pid - b.pid })
	return ours
}

// readProc reads one process; false when it is gone or a zombie.
func readProc(pid int) (proc, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return proc{}, false
	}
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(command) == 0 {
		return proc{}, false
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 2 || fields[0] == "Z" {
		return proc{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return proc{}, false
	}
	words := strings.Split(strings.TrimRight(string(command), "\x00"), "\x00")
	return proc{pid: pid, parent: parent, name: filepath.Base(words[0]), command: strings.Join(words, " ")}, true
}

// pids returns the process ids of a program in the user cluster, ascending.
func (p *place) pids(program string) (pids []int) {
	for _, q := range p.processes() {
		if q.name == program && strings.Contains(q.command, "/clusters/") {
			pids = append(pids, q.pid)
		}
	}
	return pids
}

// victim is a kind of process that a killer kills: name of the program, and a part of its command line.
type victim struct{ kind, name, part string }

var victims = []victim{
	{"controller", "keyturn-controller", ""},
	{"keyturn-local", "keyturn-local", "--supervise=false"},
	{"API server", "kube-apiserver", "/clusters/"},
	{"kube-controller-manager", "kube-controller-manager", ""},
	{"etcd", "etcd", "/clusters/"},
	{"kubelet", "kubelet", ""},
	{"fleet", "keyturn-fleet", ""},
	{"signer", "keyturn-signer", ""}, // the parent that holds the socket, or the child that signs
	{"signing child", "keyturn-signer", "--state-file="},
}

// victimsBut are those whose program has another name.
func victimsBut(name string) []victim {
	return slices.DeleteFunc(slices.Clone(victims), func(v victim) bool { return v.name == name })
}

// How often a killer kills in one rotation, and in each of ten. On a machine so slow that something is down all the
// time, a rotation then still has the rest of its time to end. Legacy tokens are re-signed a minute after an API server
// was killed last.
const (
	mostKills    = 12
	mostKillsTen = 8
)

// killer kills -9, at random moments from a seed, one process after another; each kind in turn, in random order.
type killer struct {
	place   *place
	victims []victim
	most    int
	random  *rand.Rand
	stop    chan struct{}
	done    sync.WaitGroup
	killed  []string
}

// startKiller starts one that the returned function ends and asks what it killed.
func (p *place) startKiller(seed uint64, victims []victim, most int) (end func() []string) {
	k := &killer{place: p, victims: victims, most: most, random: rand.New(rand.NewPCG(seed, seed)), stop: make(chan struct{})}
	k.done.Go(k.run)
	return func() []string {
		close(k.stop)
		k.done.Wait()
		return k.killed
	}
}

func (k *killer) run() {
	for len(k.killed) < k.most {
		for _, i := range k.random.Perm(len(k.victims)) {
			pause := 2*time.Second + time.Duration(k.random.Int64N(int64(6*time.Second)))
			select {
			case <-k.stop:
				return
			case <-time.After(pause):
				k.kill(i)
			}
			if len(k.killed) == k.most {
				return
			}
		}
	}
}

func (k *killer) kill(i int) {
	v := k.victims[i]
	alive := slices.DeleteFunc(k.place.processes(), func(q proc) bool {
		return q.name != v.name || !strings.Contains(q.command, v.part)
	})
	if len(alive) == 0 {
		return
	}
	victim := alive[k.random.IntN(len(alive))]
	if err := syscall.Kill(victim.pid, syscall.SIGKILL); err == nil {
		k.killed = append(k.killed, fmt.Sprintf("%s (pid %d)", v.kind, victim.pid))
	}
}

// nothingLeft checks that no process, mount, link or file of the place is there.
func (p *place) nothingLeft(t *testing.T) {
	t.Helper()
	for _, q := range p.processes() {
		t.Errorf("process %d is left: %s", q.pid, q.command)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, p.dataDir()) {
			t.Errorf("mount is left: %s", line)
		}
	}
	if _, err := os.Stat(p.dataDir()); err == nil {
		t.Errorf("data directory %s is left", p.dataDir())
	}
	octets := strings.Split(p.network, ".")
	links, err := filepath.Glob(fmt.Sprintf("/sys/class/net/kt%s-%s-*", octets[0], octets[1]))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		t.Errorf("link %s is left", link)
	}
}

// filesWith returns the files below the data directory that hold any of the texts.
func (p *place) filesWith(t *testing.T, texts []string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(p.dataDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // a file that went away while we looked holds nothing
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		for _, text := range texts {
			if strings.Contains(string(data), text) {
				found = append(found, path)
				break
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
