package programs

import (
	"github.com/keyturn/keyturn/internal/hint"

	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The names of the programs of a control plane.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	HAProxy           = "haproxy"
	Signer            = "keyturn-signer"
)

// Set finds the programs of one host. It is safe for concurrent use.
type Set struct {
	// kube and own are the folders of Kubernetes binaries and of Keyturn's own programs.
	kube, own string

	mu sync.Mutex
	// flatVersion is the version of the binaries directly in kube, once it is known.
	flatVersion string
}

// New uses the Kubernetes binaries and etcd of a folder, in one folder per version ("v1.36.4") or, like official
// releases, directly, and Keyturn's own programs of another folder. Empty: the folder kube next to this executable, and
// the folder of this executable.
func New(kube, own string) (*Set, error) {
	if kube == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("finding the folder of Kubernetes binaries: %w", err)
		}
		kube = filepath.Join(filepath.Dir(exe), "kube")
	}
	abs, err := filepath.Abs(kube)
	if err != nil {
		return nil, fmt.Errorf("finding the folder of Kubernetes binaries: %w", err)
	}
	return &Set{kube: abs, own: own}, nil
}

// KubeDir returns the folder of Kubernetes binaries.
func (s *Set) KubeDir() string { return s.kube }

// Binary returns the path of a Kubernetes binary, etcd or coredns, for a version such as "v1.36.4". Its error says what
// to do if it is missing or has another version.
func (s *Set) Binary(version, name string) (string, error) {
	path, err := s.Find(version, name)
	if err != nil {
		return "", err
	}
	return path, s.Check(version, path)
}

// Check refuses a Kubernetes binary of another version; etcd and CoreDNS have their own versions.
func (s *Set) Check(version, path string) error {
	if hasOwnVersions(filepath.Base(path)) {
		return nil
	}
	found, err := versionOf(path)
	if err != nil {
		return err
	}
	if found != version {
		return hint.Errorf(fmt.Sprintf("run `make kube`, or name a folder that holds %s by --kube-bin-dir", version),
			"%s is version %s, not %s", path, found, version)
	}
	return nil
}

func hasOwnVersions(name string) bool { return name == Etcd || name == "coredns" }

// Find is Binary without Check.
func (s *Set) Find(version, name string) (string, error) {
	if !filepath.IsLocal(version) || filepath.Base(version) != version {
		return "", fmt.Errorf("finding %s: %q is not a version", name, version)
	}
	wanted := filepath.Join(s.kube, version, name)
	for _, path := range []string{wanted, filepath.Join(s.kube, name)} {
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	if path, err := exec.LookPath(name); err == nil && hasOwnVersions(name) {
		return path, nil
	}
	return "", hint.Errorf("run `make kube`, or name a folder that holds it by --kube-bin-dir",
		"no %s %s at %s; there is %s", name, version, wanted, s.versions())
}

// versions lists the versions that have a folder.
func (s *Set) versions() string {
	folders, _ := os.ReadDir(s.kube) // without any, there is no version
	var versions []string
	for _, folder := range folders {
		if exists(filepath.Join(s.kube, folder.Name(), APIServer)) {
			versions = append(versions, folder.Name())
		}
	}
	if len(versions) == 0 {
		return "no other version"
	}
	return strings.Join(versions, ", ")
}

// Available returns the preferred version, or that of official release binaries if there are no others. It asks these
// once, since a cluster keeps its version: Check refuses a binary that was replaced by another version.
func (s *Set) Available(preferred string) (string, error) {
	flat := filepath.Join(s.kube, APIServer)
	if !exists(flat) || exists(filepath.Join(s.kube, preferred, APIServer)) {
		return preferred, nil // Binary says what is missing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flatVersion == "" {
		version, err := versionOf(flat)
		if err != nil {
			return "", err
		}
		s.flatVersion = version
	}
	return s.flatVersion, nil
}

// Own returns the path of one of Keyturn's own programs.
func (s *Set) Own(name string) (string, error) {
	dir := s.own
	if dir == "" {
		exe, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("finding %s: %w", name, err)
		}
		dir = filepath.Dir(exe)
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return "", hint.Errorf("run `make build`", "finding %s: %w", name, err)
	}
	return path, nil
}

// FindHAProxy also searches where Debian installs HAProxy, which is not on every user's PATH.
func FindHAProxy() (string, error) {
	for _, name := range []string{HAProxy, "/usr/sbin/haproxy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", hint.Errorf("install the package haproxy", "no haproxy on this host")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// versionOf asks a binary for its version. Call it right before starting the binary, so that both are the same file.
func versionOf(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	args := []string{"--version"}
	if filepath.Base(path) == "kubectl" {
		args = []string{"version", "--client"}
	}
	out, err := exec.CommandContext(ctx, path, args...).Output()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", path, err)
	}
	return lastWordOfFirstLine(string(out)), nil
}

// lastWordOfFirstLine extracts "v1.36.4" from "Kubernetes v1.36.4" and "Client Version: v1.36.4".
func lastWordOfFirstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	words := strings.Fields(line)
	if len(words) == 0 {
		return "unknown"
	}
	return words[len(words)-1]
}
