package kubeadm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/machine/guest"
)

// configPath is where a machine has what Init or Join give to kubeadm.
const configPath = "/etc/keyturn/kubeadm.yaml"

// PKI returns the path of a file in kubeadm's certificatesDir, on a control-plane node.
func (c *Cluster) PKI(file string) string {
	return path.Join(cmp.Or(c.opts.CertificatesDir, "/etc/kubernetes/pki"), file)
}

// Init makes the first control-plane node on a machine that Start started, and keeps the administrator's kubeconfig.
func (c *Cluster) Init(ctx context.Context, name string) error {
	config, err := c.initConfig(name)
	if err != nil {
		return err
	}
	if err := c.kubeadm(ctx, name, config, "init", "--upload-certs", "--skip-phases=addon/kube-proxy"); err != nil {
		return err
	}
	raw, err := c.ReadFile(name, "/etc/kubernetes/admin.conf")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(c.path("admin.conf"), raw); err != nil {
		return err
	}
	if err := c.keepCA(name); err != nil {
		return err
	}
	return c.admitKubeProxy(ctx)
}

// admitKubeProxy lets kube-proxy work, which has the identity of its node.
func (c *Cluster) admitKubeProxy(ctx context.Context) error {
	config, err := c.Config()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "nodes-run-kube-proxy"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-proxier"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:nodes"}},
	}, metav1.CreateOptions{})
	return err
}

// keepCA keeps the certificate by which machines that join recognize the cluster.
func (c *Cluster) keepCA(name string) error {
	raw, err := c.ReadFile(name, c.PKI("ca.crt"))
	if err != nil {
		return err
	}
	return atomicfile.Write(c.path("ca.crt"), raw)
}

// Join makes a node on a machine that Start started.
func (c *Cluster) Join(ctx context.Context, name string, role Role) error {
	config, err := c.joinConfig(name, role)
	if err != nil {
		return err
	}
	return c.kubeadm(ctx, name, config, "join")
}

// JoinAll makes nodes on machines that Start started: control-plane nodes one after another, since each changes the
// members of etcd, and workers meanwhile.
func (c *Cluster) JoinAll(ctx context.Context, controlPlanes, workers []string) error {
	errs := make([]error, len(workers))
	var all sync.WaitGroup
	for i, name := range workers {
		all.Go(func() { errs[i] = c.Join(ctx, name, Worker) })
	}
	var err error
	for _, name := range controlPlanes {
		if err = c.Join(ctx, name, ControlPlane); err != nil {
			break
		}
	}
	all.Wait()
	return errors.Join(err, errors.Join(errs...))
}

// UploadCerts puts the shared keys and certificates of a control-plane node into the Secret kubeadm-certs, for
// control-plane nodes that join within the next two hours.
func (c *Cluster) UploadCerts(ctx context.Context, from string) error {
	config, err := c.initConfig(from)
	if err != nil {
		return err
	}
	return c.kubeadm(ctx, from, config, "init", "phase", "upload-certs", "--upload-certs")
}

// kubeadm runs kubeadm with a configuration, which is a file of the machine as long as that lasts.
func (c *Cluster) kubeadm(ctx context.Context, name string, config []byte, args ...string) error {
	if err := c.awaitImages(ctx, name); err != nil {
		return err
	}
	if err := c.WriteFile(name, configPath, config); err != nil {
		return err
	}
	_, err := c.Run(ctx, name, append(append([]string{"kubeadm"}, args...), "--config="+configPath)...)
	return errors.Join(err, c.removeFile(name, configPath))
}

// awaitImages waits until a machine has imported its images: what comes earlier asks a registry.
func (c *Cluster) awaitImages(ctx context.Context, name string) error {
	const missing = `for archive in /opt/keyturn/images/*.tar; do
		image=$(basename "$archive" .tar)
		[ -e "` + guest.DonePath + `/image-$image" ] || { echo "$image"; exit 1; }
	done`
	for {
		_, err := c.Run(ctx, name, "/bin/sh", "-c", missing)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the images of machine %s: %w", name, errors.Join(err, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// initConfig is what kubeadm init gets.
func (c *Cluster) initConfig(name string) ([]byte, error) {
	registration, address, err := c.registration(name, ControlPlane)
	if err != nil {
		return nil, err
	}
	cluster := map[string]any{
		"apiVersion":           "kubeadm.k8s.io/v1beta4",
		"kind":                 "ClusterConfiguration",
		"clusterName":          c.opts.Name,
		"kubernetesVersion":    c.opts.Version,
		"controlPlaneEndpoint": c.Endpoint(),
		"networking":           map[string]any{"podSubnet": podCIDR.String(), "serviceSubnet": serviceCIDR.String()},
		"controllerManager":    map[string]any{"extraArgs": []any{argument("allocate-node-cidrs", "false")}},
	}
	if dir := c.opts.CertificatesDir; dir != "" {
		cluster["certificatesDir"] = dir
	}
	if c.opts.Algorithm != "" {
		cluster["encryptionAlgorithm"] = c.opts.Algorithm
	}
	return documents(
		map[string]any{
			"apiVersion":       "kubeadm.k8s.io/v1beta4",
			"kind":             "InitConfiguration",
			"bootstrapTokens":  []any{map[string]any{"token": c.join.Token, "ttl": "0s"}},
			"certificateKey":   c.join.CertificateKey,
			"nodeRegistration": registration,
			"localAPIEndpoint": map[string]any{"advertiseAddress": address, "bindPort": apiServerPort},
		},
		cluster,
	), nil
}

// joinConfig is what kubeadm join gets.
func (c *Cluster) joinConfig(name string, role Role) ([]byte, error) {
	registration, address, err := c.registration(name, role)
	if err != nil {
		return nil, err
	}
	digest, err := c.caDigest()
	if err != nil {
		return nil, err
	}
	config := map[string]any{
		"apiVersion": "kubeadm.k8s.io/v1beta4",
		"kind":       "JoinConfiguration",
		"discovery": map[string]any{"bootstrapToken": map[string]any{
			"token": c.join.Token, "apiServerEndpoint": c.Endpoint(), "caCertHashes": []any{digest},
		}},
		"nodeRegistration": registration,
		"caCertPath":       c.PKI("ca.crt"),
	}
	if role == ControlPlane {
		config["controlPlane"] = map[string]any{
			"certificateKey":   c.join.CertificateKey,
			"localAPIEndpoint": map[string]any{"advertiseAddress": address, "bindPort": apiServerPort},
		}
	}
	return documents(config), nil
}

// registration is a machine's nodeRegistration, and its address.
func (c *Cluster) registration(name string, role Role) (map[string]any, string, error) {
	state, exists, err := c.set(role).Look(name)
	if err == nil && !exists {
		err = errors.New("there is no such machine")
	}
	if err != nil {
		return nil, "", fmt.Errorf("configuring machine %s: %w", name, err)
	}
	address := state.Spec.Port.Address.Addr().String()
	return map[string]any{
		"name":                  name,
		"criSocket":             "unix:///run/containerd/containerd.sock",
		"imagePullPolicy":       "IfNotPresent",
		"ignorePreflightErrors": []any{"all"},
		"kubeletExtraArgs":      []any{argument("node-ip", address)},
	}, address, nil
}

func argument(name, value string) map[string]any { return map[string]any{"name": name, "value": value} }

// documents encodes objects as the documents of one YAML file. JSON is YAML.
func documents(objects ...map[string]any) []byte {
	var parts [][]byte
	for _, o := range objects {
		raw, err := json.MarshalIndent(o, "", "  ")
		if err != nil {
			panic(err) // strings, numbers and lists always encode
		}
		parts = append(parts, raw)
	}
	return append(bytes.Join(parts, []byte("\n---\n")), '\n')
}

// caDigest is the pin of the cluster's certificate authority, as kubeadm has it: of its public key.
func (c *Cluster) caDigest() (string, error) {
	raw, err := os.ReadFile(c.path("ca.crt"))
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return "", fmt.Errorf("%s has no certificate", c.path("ca.crt"))
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(certificate.RawSubjectPublicKeyInfo)), nil
}

// inEtc calls f with a machine's /etc and a path in there. No link leads f out of it.
func (c *Cluster) inEtc(name, path string, f func(etc *os.Root, path string) error) error {
	relative, err := filepath.Rel("/etc", path)
	if err != nil {
		return err
	}
	etc, err := os.OpenRoot(c.path("machines", name, "etc"))
	if err != nil {
		return err
	}
	return errors.Join(f(etc, relative), etc.Close())
}

// ReadFile reads a file below /etc of a machine.
func (c *Cluster) ReadFile(name, path string) (content []byte, err error) {
	err = c.inEtc(name, path, func(etc *os.Root, path string) (err error) {
		content, err = etc.ReadFile(path)
		return err
	})
	return content, err
}

// WriteFile writes a file below /etc of a machine, which only root may read.
func (c *Cluster) WriteFile(name, path string, content []byte) error {
	return c.inEtc(name, path, func(etc *os.Root, path string) error { return etc.WriteFile(path, content, 0o600) })
}

func (c *Cluster) removeFile(name, path string) error {
	return c.inEtc(name, path, func(etc *os.Root, path string) error { return etc.Remove(path) })
}
