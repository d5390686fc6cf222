package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/local/process"
)

func TestRefreshIsRemembered(t *testing.T) {
	s, spec := testSet(t), testSpec()
	since := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := s.Remember(spec.Name, 3, Refresh{Version: 4, Since: since}); err == nil {
		t.Error("a machine that does not exist remembers")
	}
	if err := s.writeSpec(spec); err != nil {
		t.Fatal(err)
	}
	if err := s.Remember(spec.Name, 2, Refresh{}); err == nil {
		t.Error("the key version of a machine without a refresh went back")
	}
	remember := func(keyVersion int, r Refresh) Spec {
		t.Helper()
		if err := s.Remember(spec.Name, keyVersion, r); err != nil {
			t.Fatal(err)
		}
		state, _, err := s.Look(spec.Name)
		if err != nil {
			t.Fatal(err)
		}
		return state.Spec
	}
	got := remember(3, Refresh{Version: 4, Since: since})
	if !got.refreshing() || got.KeyVersion != 3 || !got.Refresh.Since.Equal(since) || got.Refresh.Began.Boot == "" ||
		got.Labels == nil {
		t.Errorf("begun: %+v", got)
	}
	again := remember(3, Refresh{Version: 4, Since: since.Add(time.Hour), Proven: since.Add(time.Minute)})
	if again.Refresh.Began != got.Refresh.Began || !again.Refresh.Since.Equal(since) ||
		!again.Refresh.Proven.Equal(since.Add(time.Minute)) {
		t.Errorf("proven: %+v", again.Refresh)
	}
	if got = remember(4, *again.Refresh); got.refreshing() || got.KeyVersion != 4 {
		t.Errorf("ended: %+v", got)
	}
	if got = remember(4, Refresh{Version: 5, Since: since.Add(2 * time.Hour)}); !got.refreshing() ||
		!got.Refresh.Proven.IsZero() {
		t.Errorf("the next one: %+v", got.Refresh)
	}
	for _, r := range []Refresh{{Version: 4}, {Version: 3}} {
		if err := s.Remember(spec.Name, 4, r); err == nil {
			t.Errorf("went back to %d", r.Version)
		}
	}
	if err := s.Remember(spec.Name, 3, Refresh{Version: 5}); err == nil {
		t.Error("the key version went back")
	}
}

func TestMoments(t *testing.T) {
	now, err := present()
	if err != nil {
		t.Fatal(err)
	}
	self, parent, ok := process.LookUp(os.Getpid())
	if !ok || parent != os.Getppid() {
		t.Fatalf("found %+v, parent %d, %t", self, parent, ok)
	}
	began := begin(self)
	for now.Ticks == began.Ticks { // a moment of the same tick is not later
		if now, err = present(); err != nil {
			t.Fatal(err)
		}
	}
	if !began.before(now) || now.before(began) || began.before(began) {
		t.Errorf("started at %+v, now it is %+v", began, now)
	}
	if !now.before(Moment{Boot: "another", Ticks: 1}) {
		t.Error("what runs since another start of the host is not newer")
	}
}

// A machine that does not run has no kubelet and no files.
func TestRefreshOfAMachineThatDoesNotRun(t *testing.T) {
	s, spec := testSet(t), testSpec()
	if err := s.writeSpec(spec); err != nil {
		t.Fatal(err)
	}
	if err := s.Remember(spec.Name, 3, Refresh{Version: 4, Since: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := s.RestartKubelet(spec.Name); err != nil {
		t.Error(err)
	}
	err := s.ReadPodFiles(spec.Name, []PodFile{{"uid", "v", "token"}}, 10,
		func(int, []byte, error) { t.Error("a file was read") })
	if err == nil || !strings.Contains(err.Error(), "does not run") {
		t.Errorf("reading: %v", err)
	}
	// Neither has one that is just being started.
	if err := s.runner(spec.Name).Start(process.Spec{
		Name: processName, Path: "/bin/sleep", Args: []string{"60"},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Halt(spec.Name) })
	state, _, err := s.Look(spec.Name)
	if err != nil || !state.Running || !state.Kubelet.IsZero() {
		t.Errorf("it is %+v, %v", state, err)
	}
	err = s.ReadPodFiles(spec.Name, []PodFile{{"uid", "v", "token"}}, 10,
		func(int, []byte, error) { t.Error("a file was read") })
	if err == nil || !strings.Contains(err.Error(), "is starting") {
		t.Errorf("reading: %v", err)
	}
}

func TestReadPodFile(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "var/lib/kubelet/pods/uid/volumes/kubernetes.io~projected/tokens")
	write := func(version, path, content string) {
		t.Helper()
		file := filepath.Join(dir, version, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755),
			os.WriteFile(file, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("..v1", "token", "one")
	write("..v1", "deep/token", "deep")
	if err := os.WriteFile(filepath.Join(root, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	links := map[string]string{
		"..data": "..v1", "..v1/outside": "../../../../../../../../secret", "..v1/absolute": filepath.Join(root, "secret"),
	}
	for link, to := range links {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "..v1/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	machine, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	// A machine may have a link out of it anywhere.
	pods := filepath.Join(root, "var/lib/kubelet/pods")
	if err := os.Symlink(filepath.Join(pods, "uid"), filepath.Join(pods, "absolute")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		file PodFile
		want string
		err  error
	}{
		{PodFile{"uid", "tokens", "token"}, "one", nil},
		{PodFile{"uid", "tokens", "deep/token"}, "deep", nil},
		{PodFile{"uid", "tokens", "none"}, "", fs.ErrNotExist},
		{PodFile{"uid", "other", "token"}, "", fs.ErrNotExist},
		{PodFile{"other", "tokens", "token"}, "", fs.ErrNotExist},
		{PodFile{"uid", "tokens", "deep"}, "", errAny},
		{PodFile{"uid", "tokens", "pipe"}, "", errAny},
		{PodFile{"uid", "tokens", "outside"}, "", errAny},
		{PodFile{"uid", "tokens", "absolute"}, "", errAny},
		{PodFile{"uid", "../kubernetes.io~projected/tokens", "token"}, "", errAny},
		{PodFile{"absolute", "tokens", "token"}, "", errAny},
		{PodFile{"..", "tokens", "token"}, "", errAny},
		{PodFile{"uid", "tokens", "../../../token"}, "", errAny},
	} {
		content, err := readPodFile(machine, test.file, 100)
		switch {
		case test.err == nil && (err != nil || string(content) != test.want):
			t.Errorf("%v: %q, %v", test.file, content, err)
		case test.err != nil && (err == nil || content != nil || !errors.Is(test.err, errAny) && !errors.Is(err, test.err)):
			t.Errorf("%v: %q, %v", test.file, content, err)
		case err != nil && strings.Contains(err.Error(), root):
			t.Errorf("%v: the error tells the host's path: %v", test.file, err)
		}
	}
	content, err := readPodFile(machine, PodFile{"uid", "tokens", "deep/token"}, 2)
	if err != nil || string(content) != "de" {
		t.Errorf("more than the limit: %q, %v", content, err)
	}
}

// errAny stands for any error.
var errAny = errors.New("any")
