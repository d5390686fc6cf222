package machine

import (
	"github.com/keyturn/keyturn/internal/hint"

	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyturn/keyturn/internal/local/machine/guest"
)

// Paths inside a machine.
const (
	kubeconfigPath = "/var/lib/kubelet/kubelet.conf"
	caPath         = "/etc/kubernetes/ca.crt"
	varPath        = "/var/"
)

// Paths below a machine's /var.
const (
	bootstrapPath = "lib/kubelet/bootstrap.conf"
	// certificatePath exists once the kubelet has joined; it writes its kubeconfig before.
	certificatePath = "lib/kubelet/pki/kubelet-client-current.pem"
)

// writeFiles writes everything that the machine reads when it starts. It does not change its own state in /var.
// Programs in a machine may have created links anywhere in /var and /etc, so nothing there is reached only by its path.
func (s Set) writeFiles(spec Spec, access Access, joined bool) error {
	files, err := s.etc(spec, access)
	if err != nil {
		return err
	}
	if err := s.writeEtc(spec, files); err != nil {
		return err
	}
	if err := s.makeDirs(spec.Name); err != nil {
		return err
	}
	if len(access.UserData) > 0 {
		if err := s.writeUserData(spec.Name, access.UserData); err != nil {
			return err
		}
	}
	if joined || spec.Kubeadm {
		return nil
	}
	raw, err := bootstrapKubeconfig(access)
	if err != nil {
		return err
	}
	return s.inVar(spec.Name, func(dir *os.Root) error {
		if err := dir.Remove(bootstrapPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return writeNew(dir, bootstrapPath, raw, 0o600)
	})
}

// writeEtc writes the machine's /etc again, or only our part of it if kubeadm keeps files there.
func (s Set) writeEtc(spec Spec, files map[string][]byte) error {
	etc := s.path(spec.Name, "etc")
	if !spec.Kubeadm {
		if err := os.RemoveAll(etc); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return err
	}
	dir, err := os.OpenRoot(etc)
	if err != nil {
		return err
	}
	defer dir.Close()
	for path, content := range files {
		if err := dir.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := dir.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := writeNew(dir, path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func writeNew(dir *os.Root, path string, content []byte, mode fs.FileMode) error {
	f, err := dir.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

// inVar calls f with the machine's /var. No link in it leads f out of it.
func (s Set) inVar(name string, f func(dir *os.Root) error) error {
	dir, err := os.OpenRoot(s.path(name, "var"))
	if err != nil {
		return err
	}
	return errors.Join(f(dir), dir.Close())
}

func (s Set) makeDirs(name string) error {
	for _, dir := range []string{"root", "var"} {
		if err := os.MkdirAll(s.path(name, dir), 0o755); err != nil {
			return err
		}
	}
	return s.inVar(name, func(dir *os.Root) error {
		for _, path := range []string{"cache", "lib/kubelet", "lib/containerd", "log", "tmp"} {
			if err := dir.MkdirAll(path, 0o755); err != nil {
				return err
			}
		}
		if err := dir.Symlink("/run", "run"); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	})
}

// etc returns the content of the machine's /etc.
func (s Set) etc(spec Spec, access Access) (map[string][]byte, error) {
	config, err := s.guestConfig(spec)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		"hostname": []byte(spec.Name + "\n"),
		"hosts": fmt.Appendf(nil, "127.0.0.1 localhost\n%s %s\n", spec.Port.Address.Addr(),
			spec.Name),
		"machine-id":  machineID(spec),
		"resolv.conf": resolvConf(spec),
		"passwd": []byte("root:x:0:0:root:/root:/bin/sh\n" +
			"nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"),
		"group":                         []byte("root:x:0:\nnogroup:x:65534:\n"),
		"protocols":                     []byte(protocols),
		"nsswitch.conf":                 []byte("passwd: files\ngroup: files\nhosts: files dns\nprotocols: files\n"),
		"os-release":                    []byte("NAME=Keyturn\nID=keyturn\nPRETTY_NAME=\"Keyturn machine\"\n"),
		"masquerade.nft":                masqueradeRules(spec),
		"containerd/config.toml":        []byte(containerdConfig),
		"cni/net.d/10-keyturn.conflist": cniConfig(spec),
		"keyturn/kube-proxy.json":       kubeProxyConfig(spec),
		"keyturn/guest.json":            config,
	}
	if spec.Kubeadm {
		files[kubeletDropIns+"/50-machine.conf"] = kubeletDropIn(spec)
	} else {
		files["kubernetes/ca.crt"] = access.CA
		files["kubernetes/kubelet.json"] = kubeletConfig(spec)
		files["keyturn/Corefile"] = []byte(corefile)
	}
	for path, value := range kernelParameters {
		files["sysctl/"+path] = []byte(value + "\n")
	}
	// The dynamic linker's list of libraries, for hosts that keep some in unusual directories.
	if cache, err := os.ReadFile("/etc/ld.so.cache"); err == nil {
		files["ld.so.cache"] = cache
	}
	return files, nil
}

// resolvConf names no server that answers, since a machine reaches nothing that has a name. The CoreDNS that kubeadm
// installs does not start without an address to forward to.
func resolvConf(spec Spec) []byte {
	return fmt.Appendf(nil, "nameserver %s\n", spec.Port.Gateway)
}

// protocols are the protocols of Services, as in protocols(5). Without it nft lists them as numbers, and a restarted
// kube-proxy takes its own rules for foreign ones and deletes them.
const protocols = "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\nsctp 132 SCTP\n"

// machineID returns the machine's own ID, which stays the same over restarts (machine-id(5)).
func machineID(spec Spec) []byte {
	sum := sha256.Sum256([]byte(spec.Group + "/" + spec.Name))
	return []byte(hex.EncodeToString(sum[:16]) + "\n")
}

// bootstrapKubeconfig reaches the API with the bootstrap token.
func bootstrapKubeconfig(access Access) ([]byte, error) {
	if access.Token == "" {
		return nil, errors.New("it has not joined yet and there is no bootstrap token")
	}
	const name = "bootstrap"
	raw, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: access.Server, CertificateAuthorityData: access.CA}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {Token: access.Token}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding bootstrap kubeconfig: %w", err)
	}
	return raw, nil
}

func (s Set) guestConfig(spec Spec) ([]byte, error) {
	binds, err := s.binds(spec)
	if err != nil {
		return nil, err
	}
	archives, err := filepath.Glob(filepath.Join(s.Images, "*.tar"))
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	return encode(guest.Config{
		Group:    spec.Group,
		Hostname: spec.Name,
		Binds:    binds,
		Sysctls: map[string]string{
			"ipv4/ip_forward":         "1",
			"ipv4/conf/all/rp_filter": "0",
		},
		WritableEtc: spec.Kubeadm,
		ReadSearch:  spec.Kubeadm,
		Services:    services(spec, archives),
	}), nil
}

// kernelParameters are those that a kubelet insists on setting. It sees these values; the host keeps its own.
var kernelParameters = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// binds returns the programs that the machine sees, in addition to those in /usr, and the kernel parameters.
func (s Set) binds(spec Spec) ([]guest.Bind, error) {
	kubelet, err := s.Find(s.Version, "kubelet")
	if err != nil {
		return nil, err
	}
	kubeProxy, err := s.Find(s.Version, "kube-proxy")
	if err != nil {
		return nil, err
	}
	plugins, err := cniPlugins()
	if err != nil {
		return nil, err
	}
	binds := []guest.Bind{
		{Source: s.Init, Target: guest.InitPath},
		{Source: kubelet, Target: kubeletBinary},
		{Source: kubeProxy, Target: kubeProxyBinary},
		{Source: s.Images, Target: imageDir},
		{Source: plugins, Target: "/opt/cni/bin"},
	}
	name, target := "coredns", coreDNSBinary
	if spec.Kubeadm {
		name, target = "kubeadm", kubeadmBinary
	}
	program, err := s.Find(s.Version, name)
	if err != nil {
		return nil, err
	}
	binds = append(binds, guest.Bind{Source: program, Target: target})
	for path := range kernelParameters {
		binds = append(binds, guest.Bind{Source: s.path(spec.Name, "etc/sysctl", path),
			Target: filepath.Join("/proc/sys", path)})
	}
	return binds, nil
}

// cniPlugins finds the directory of the CNI plugins.
func cniPlugins() (string, error) {
	dirs := []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "ptp")); err == nil {
			return dir, nil
		}
	}
	return "", hint.Errorf("install the package containernetworking-plugins", "no CNI plugins in %v", dirs)
}

// encode encodes values that always encode: structs and maps of strings, numbers and lists.
func encode(v any) []byte {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err)
	}
	return raw
}
