package localtest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/programs"
)

// Data returns an empty data directory, whose clusters have no bridges.
func Data(t testing.TB) *datadir.Dir {
	t.Helper()
	return open(t, netip.Prefix{}, true)
}

// RealData is Data with addresses that nobody else uses.
func RealData(t *testing.T, loopback bool) *datadir.Dir {
	t.Helper()
	return open(t, FreeNetwork(t), loopback)
}

func open(t testing.TB, network netip.Prefix, loopback bool) *datadir.Dir {
	t.Helper()
	d, err := datadir.Open(filepath.Join(t.TempDir(), "data"), network, loopback)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// NoPrograms returns a set of programs that do not exist.
func NoPrograms(t testing.TB) *programs.Set {
	t.Helper()
	return programsIn(t, t.TempDir(), "")
}

// Programs returns the Kubernetes binaries of the tests, with Keyturn's own in a directory.
func Programs(t testing.TB, own string) *programs.Set {
	t.Helper()
	bin, err := kubetest.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	return programsIn(t, bin, own)
}

func programsIn(t testing.TB, kube, own string) *programs.Set {
	t.Helper()
	s, err := programs.New(kube, own)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// FreeNetwork returns a range of addresses that nobody else uses.
func FreeNetwork(t *testing.T) netip.Prefix {
	t.Helper()
	for i := range 100 {
		octet := 100 + (os.Getpid()+i)%100
		network := netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", octet))
		if usedByHost(t, network) {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.%d.0.254:6443", octet))
		if err != nil {
			continue
		}
		t.Cleanup(func() { l.Close() }) // taken as long as the test runs
		return network
	}
	t.Fatal("no free network")
	return netip.Prefix{}
}

// usedByHost reports whether an interface has an address in the network.
func usedByHost(t *testing.T, network netip.Prefix) bool {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Overlaps(network)
	})
}

// UserCluster returns a local cluster that was never created.
func UserCluster(name string, replicas int32) *v1alpha1.UserCluster {
	return &v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name, UID: types.UID("uid-of-" + name)},
		Spec: v1alpha1.UserClusterSpec{
			Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
				KubernetesVersion: kubetest.Version,
				Network:           v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
				ControlPlane:      v1alpha1.ControlPlane{Replicas: replicas},
			}},
		},
	}
}

// Key returns a new key pair.
func Key(t *testing.T, version int) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, "ES256")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// ProcessesOf finds the processes whose command line names a directory.
func ProcessesOf(t *testing.T, dir string) (found []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range lines {
		if raw, err := os.ReadFile(f); err == nil && bytes.Contains(raw, []byte(dir)) {
			found = append(found, strings.ReplaceAll(string(raw), "\x00", " "))
		}
	}
	return found
}

// FileMode returns the mode of a file.
func FileMode(t *testing.T, path string) os.FileMode {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Mode().Perm()
}

// FilesNamed finds the files in a directory whose names have a prefix.
func FilesNamed(t *testing.T, dir, prefix string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(e.Name(), prefix) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Tree lists everything in a directory with its modes.
func Tree(t *testing.T, dir string) string {
	t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			list.WriteString(info.Mode().String() + " " + path + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list.String()
}
