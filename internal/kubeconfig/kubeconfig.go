// Package kubeconfig reads kubeconfig files from untrusted sources, such as the content of a Secret.
//
// A kubeconfig file can start programs, read files, and send credentials anywhere. So Parse takes four values and
// refuses a file with any other field. Its result is made only of these values.
package kubeconfig

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// MaxSize is the size in bytes of the largest file that Parse accepts.
const MaxSize = 64 << 10

// Access is how a client reaches one cluster.
type Access struct {
	// Server is the https URL of the API server.
	Server string
	// CertificateAuthority holds the PEM certificates that verify the server.
	CertificateAuthority []byte
	// Certificate and Key are the PEM certificate and private key of the client.
	Certificate, Key []byte
}

// file has the fields that Parse allows, as the API group kubeconfig spells them.
type file struct {
	APIVersion     string    `json:"apiVersion"`
	Kind           string    `json:"kind"`
	Preferences    struct{}  `json:"preferences"` // written by some versions of client-go, always empty
	CurrentContext string    `json:"current-context"`
	Clusters       []cluster `json:"clusters"`
	Users          []user    `json:"users"`
	Contexts       []context `json:"contexts"`
}

type cluster struct {
	Name    string `json:"name"`
	Cluster struct {
		Server                   string `json:"server"`
		CertificateAuthorityData []byte `json:"certificate-authority-data"`
	} `json:"cluster"`
}

type user struct {
	Name string `json:"name"`
	User struct {
		ClientCertificateData []byte `json:"client-certificate-data"`
		ClientKeyData         []byte `json:"client-key-data"`
	} `json:"user"`
}

type context struct {
	Name    string `json:"name"`
	Context struct {
		Cluster string `json:"cluster"`
		User    string `json:"user"`
	} `json:"context"`
}

// Parse reads a file with one cluster, one user and one context. No error contains a value of the file.
func Parse(data []byte) (Access, error) {
	if len(data) > MaxSize {
		return Access{}, fmt.Errorf("reading a kubeconfig: it has more than %d bytes", MaxSize)
	}
	f, err := decode(data)
	if err == nil {
		err = f.check()
	}
	if err != nil {
		return Access{}, fmt.Errorf("reading a kubeconfig: %w", err)
	}
	a := Access{
		Server: f.Clusters[0].Cluster.Server, CertificateAuthority: f.Clusters[0].Cluster.CertificateAuthorityData,
		Certificate: f.Users[0].User.ClientCertificateData, Key: f.Users[0].User.ClientKeyData,
	}
	if err := a.check(); err != nil {
		return Access{}, fmt.Errorf("reading a kubeconfig: %w", err)
	}
	return a, nil
}

// decode compares field names exactly. Of the decoders' errors it uses only paths, since they may quote values.
func decode(data []byte) (file, error) {
	var f file
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return f, errors.New("it is not YAML in which each field comes once")
	}
	strict, err := kjson.UnmarshalStrict(asJSON, &f)
	for _, problem := range strict {
		if field, ok := errors.AsType[kjson.FieldError](problem); ok {
			return f, fmt.Errorf("field %.200q is not allowed%s: only server, certificate-authority-data, "+
				"client-certificate-data and client-key-data are used", field.FieldPath(), reasonFor(field.FieldPath()))
		}
	}
	if err != nil || len(strict) > 0 {
		return f, errors.New("some field is not of its type")
	}
	return f, nil
}

// reasons explain why some fields are not allowed.
var reasons = map[string]string{
	"token":                    ", since a token of a service account of that cluster dies with the key that is rotated",
	"tokenFile":                ", since a token of a service account of that cluster dies with the key that is rotated",
	"exec":                     ", since it starts a program",
	"insecure-skip-tls-verify": ", since anybody could pass for that cluster",
}

// reasonFor returns why a field is not allowed; empty if that is obvious.
func reasonFor(path string) string {
	return reasons[path[strings.LastIndex(path, ".")+1:]]
}

func (f file) check() error {
	switch {
	case f.APIVersion != "v1" || f.Kind != "Config":
		return errors.New("it is not of apiVersion v1 and kind Config")
	case len(f.Clusters) != 1 || len(f.Users) != 1 || len(f.Contexts) != 1:
		return fmt.Errorf("it has %d clusters, %d users and %d contexts, not one of each",
			len(f.Clusters), len(f.Users), len(f.Contexts))
	}
	c := f.Contexts[0]
	if c.Name != f.CurrentContext || c.Context.Cluster != f.Clusters[0].Name || c.Context.User != f.Users[0].Name {
		return errors.New("current-context does not lead to its cluster and its user")
	}
	return nil
}

func (a Access) check() error {
	u, err := url.Parse(a.Server)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "":
		return errors.New("server is not a URL like https://10.0.0.1:6443")
	case u.User != nil || u.Path != "" || strings.ContainsAny(a.Server, "?#"):
		return errors.New("server has more than a host and a port")
	case !x509.NewCertPool().AppendCertsFromPEM(a.CertificateAuthority):
		return errors.New("certificate-authority-data holds no certificate")
	}
	if _, err := tls.X509KeyPair(a.Certificate, a.Key); err != nil {
		return errors.New("client-certificate-data and client-key-data are not a certificate and its private key")
	}
	return nil
}

// SameCluster reports whether both reach one API server, with the same certificates.
func (a Access) SameCluster(other Access) bool {
	return a.Server == other.Server && bytes.Equal(a.CertificateAuthority, other.CertificateAuthority)
}

// Config returns the configuration of a client.
func (a Access) Config() *rest.Config {
	return &rest.Config{Host: a.Server, TLSClientConfig: rest.TLSClientConfig{
		CAData: a.CertificateAuthority, CertData: a.Certificate, KeyData: a.Key,
	}}
}

// File returns a kubeconfig file with these names for the cluster and the user.
func (a Access) File(cluster, user string) ([]byte, error) {
	name := user + "@" + cluster
	data, err := clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{cluster: {
			Server: a.Server, CertificateAuthorityData: a.CertificateAuthority,
		}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: {ClientCertificateData: a.Certificate, ClientKeyData: a.Key}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: cluster, AuthInfo: user}},
		CurrentContext: name,
	})
	if err != nil {
		return nil, fmt.Errorf("writing the kubeconfig of %s: %w", cluster, err)
	}
	return data, nil
}
