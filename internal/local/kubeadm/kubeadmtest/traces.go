package kubeadmtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// Traces are texts and bytes by which private keys are recognized: their secret numbers as they are, in hex and in
// base64, wherever these begin in it, and lines of their PEM, also in base64. So each finds PEM, DER, JWK and Secrets
// alike.
type Traces [][]byte

// TracesOf returns the traces of private keys, which are RSA or ECDSA.
func TracesOf(keys ...crypto.Signer) (t Traces, err error) {
	for _, k := range keys {
		secret, encodings, err := secretOf(k)
		if err != nil {
			return nil, err
		}
		t = append(t, secret, []byte(hex.EncodeToString(secret)))
		t = append(t, inBase64(secret)...)
		for _, der := range encodings {
			line := lineOf(der, secret)
			t = append(t, line)
			t = append(t, inBase64(line)...)
		}
	}
	return t, nil
}

// secretOf returns the number that makes a key private, and the encodings of the whole key.
func secretOf(key crypto.Signer) (secret []byte, encodings [][]byte, err error) {
	var traditional []byte
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		if secret, err = key.Bytes(); err == nil {
			traditional, err = x509.MarshalECPrivateKey(key)
		}
	case *rsa.PrivateKey:
		secret, traditional = key.D.Bytes(), x509.MarshalPKCS1PrivateKey(key)
	default:
		err = fmt.Errorf("a key of type %T", key)
	}
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	return secret, [][]byte{traditional, pkcs8}, err
}

// inBase64 returns what the base64 of any text has in it that holds these bytes, by where in it they begin.
func inBase64(b []byte) (all [][]byte) {
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			text := encoding.EncodeToString(append(make([]byte, before), b...))
			// The characters at both ends also hold bits of what is before and after.
			first, last := (8*before+5)/6, 8*(before+len(b))/6
			if found := []byte(text[first:last]); !slices.ContainsFunc(all, func(a []byte) bool { return bytes.Equal(a, found) }) {
				all = append(all, found)
			}
		}
	}
	return all
}

// lineOf returns the line of the PEM of an encoding that holds the most of a secret.
func lineOf(der, secret []byte) []byte {
	const bytesOfLine = 48
	begin := bytes.Index(der, secret)
	end := begin + len(secret)
	best, most := 0, 0
	for at := 0; at < len(der); at += bytesOfLine {
		if held := min(end, at+bytesOfLine) - max(begin, at); held > most {
			best, most = at, held
		}
	}
	return []byte(base64.StdEncoding.EncodeToString(der[best:min(len(der), best+bytesOfLine)]))
}

// In reports whether a content has any of the traces.
func (t Traces) In(content []byte) bool {
	return slices.ContainsFunc(t, func(trace []byte) bool { return bytes.Contains(content, trace) })
}

// ExpectTraces searches for traces as somebody who may read everything would: all objects of the cluster, and of each
// machine its disk, with all logs and the files of etcd, and the arguments of its processes. It returns where they are,
// each of which must begin with one of what is allowed: a path, or KIND NAMESPACE/NAME of an object.
func (c *Cluster) ExpectTraces(what string, t Traces, allowed ...string) (found []string) {
	c.t.Helper()
	found, objects, err := c.objectsWith(c.t.Context(), t)
	c.Must(err)
	machines, err := c.Machines()
	c.Must(err)
	files := 0
	for _, name := range machines {
		paths, read, err := c.filesWith(name, t)
		c.Must(err)
		found, files = append(found, paths...), files+read
		has, err := c.commandsHave(c.t.Context(), name, t)
		c.Must(err)
		if has {
			found = append(found, "the arguments of a process on "+name)
		}
	}
	c.t.Logf("searched %d objects and %d files for the %s: it is in %q", objects, files, what, found)
	for _, where := range found {
		if !slices.ContainsFunc(allowed, func(prefix string) bool { return strings.HasPrefix(where, prefix) }) {
			c.t.Errorf("the %s is in %s", what, where)
		}
	}
	return found
}

// filesWith returns the files of a machine that have traces, as the machine names them: logs, the files of etcd, and
// all others of its /etc and /var but images. read is how many were searched.
func (c *Cluster) filesWith(name string, t Traces) (found []string, read int, err error) {
	root := filepath.Join(c.dir, "machines", name)
	for _, top := range []string{"etc", "var"} {
		err = filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // what went away meanwhile holds nothing
			}
			if d.IsDir() && strings.HasPrefix(d.Name(), "io.containerd.") {
				return fs.SkipDir // images
			}
			if !d.Type().IsRegular() {
				return nil
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return nil //nolint:nilerr // likewise
			}
			if read++; t.In(content) {
				found = append(found, strings.TrimPrefix(path, root))
			}
			return nil
		})
		if err != nil {
			return nil, read, err
		}
	}
	return found, read, nil
}

// commandsHave reports whether the arguments or the environment of a process of a machine have traces.
func (c *Cluster) commandsHave(ctx context.Context, name string, t Traces) (bool, error) {
	out, err := c.Run(ctx, name, "/bin/sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || true")
	if err == nil && !bytes.Contains(out, []byte("containerd")) {
		err = fmt.Errorf("the processes of machine %s do not show their arguments", name)
	}
	return t.In(out), err
}

// objectsWith returns the objects of the cluster that have traces, as KIND NAMESPACE/NAME. read is how many were
// searched.
func (c *Cluster) objectsWith(ctx context.Context, t Traces) (found []string, read int, err error) {
	config, err := c.Config()
	if err != nil {
		return nil, 0, err
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, 0, err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, 0, err
	}
	kinds, err := discovery.ServerPreferredResources(client.Discovery())
	if err != nil {
		return nil, 0, err
	}
	for _, group := range kinds {
		version, err := schema.ParseGroupVersion(group.GroupVersion)
		if err != nil {
			return nil, 0, err
		}
		for _, kind := range group.APIResources {
			if !slices.Contains(kind.Verbs, "list") {
				continue
			}
			list, err := objects.Resource(version.WithResource(kind.Name)).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, 0, fmt.Errorf("listing %s: %w", kind.Name, err)
			}
			read += len(list.Items)
			found = append(found, t.inObjects(list.Items)...)
		}
	}
	return found, read, nil
}

// inObjects returns the objects that have traces.
func (t Traces) inObjects(objects []unstructured.Unstructured) (found []string) {
	for _, o := range objects {
		if raw, err := json.Marshal(o.Object); err != nil || t.In(raw) {
			found = append(found, fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName()))
		}
	}
	return found
}
