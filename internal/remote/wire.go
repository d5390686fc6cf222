package remote

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/json"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/signer/ledger"
	"github.com/keyturn/keyturn/token"
)

// The limits of a call.
const (
	// maxBody is the length of a body in bytes. A UserCluster has at most 1.5 MiB: etcd takes no more.
	maxBody = 4 << 20
	// maxLedger is the limit for the answer to ledgerOf. A full ledger has about 40 MiB as JSON.
	maxLedger = 64 << 20
	// callTimeout is how long a call may take. The methods of the ports return within about a second.
	callTimeout = time.Minute
)

// method is a method of an interface: its path after /v1/, its arguments besides the cluster, and its result.
type method[A, R any] string

// The methods of the protocol.
const (
	observe         method[none, controlplane.State]  = "controlplane/observe"
	converge        method[convergeArgs, none]        = "controlplane/converge"
	config          method[string, access]            = "controlplane/config"
	adminKubeconfig method[none, []byte]              = "controlplane/admin-kubeconfig"
	deletePlane     method[none, bool]                = "controlplane/delete"
	ledgerOf        method[string, ledger.Report]     = "controlplane/ledger"
	listMachines    method[none, []nodes.Machine]     = "machines/list"
	ensureMachine   method[ensureArgs, none]          = "machines/ensure"
	removeMachine   method[string, bool]              = "machines/remove"
	remember        method[nodes.Machine, none]       = "refresher/remember"
	restartKubelet  method[string, none]              = "refresher/restart-kubelet"
	readTokens      method[tokensArgs, []nodes.Token] = "refresher/tokens"
)

func (m method[A, R]) path() string { return "/v1/" + string(m) }

// maxAnswer returns the longest answer in bytes.
func (m method[A, R]) maxAnswer() int {
	if string(m) == string(ledgerOf) {
		return maxLedger
	}
	return maxBody
}

type (
	none struct{}

	convergeArgs struct {
		Target controlplane.Target `json:"target"`
		Keys   []keyPair           `json:"keys"`
	}
	ensureArgs struct {
		Machine nodes.Machine     `json:"machine"`
		Pool    v1alpha1.NodePool `json:"pool"`
	}
	tokensArgs struct {
		Machine string            `json:"machine"`
		Files   []nodes.TokenFile `json:"files"`
	}
)

// request is the body of a call, and response the body of an answer with status 200.
type (
	request[A any] struct {
		Cluster *v1alpha1.UserCluster `json:"cluster"`
		Args    A                     `json:"args"`
	}
	response[R any] struct {
		Result R `json:"result"`
	}
)

// keyPair is a key version on the wire. It holds a private key, and is never formatted.
type keyPair struct {
	Version   int       `json:"version"`
	Algorithm string    `json:"algorithm"`
	KeyID     string    `json:"keyID"`
	CreatedAt time.Time `json:"createdAt"`
	// PrivateKey is PKCS #8 in PEM.
	PrivateKey []byte `json:"privateKey"`
}

func encodeKeys(keys []keystore.KeyPair) ([]keyPair, error) {
	var list []keyPair
	for _, k := range keys {
		private, err := token.MarshalPrivateKey(k.Signer)
		if err != nil {
			clearKeys(list)
			return nil, fmt.Errorf("key version %d: %w", k.Version, err)
		}
		list = append(list, keyPair{
			Version: k.Version, Algorithm: k.Algorithm, KeyID: k.KeyID, CreatedAt: k.CreatedAt, PrivateKey: private,
		})
	}
	return list, nil
}

// decodeKeys refuses a key version whose parts do not match.
func decodeKeys(list []keyPair) ([]keystore.KeyPair, error) {
	var keys []keystore.KeyPair
	for _, w := range list {
		signer, err := token.ParsePrivateKey(w.PrivateKey)
		if err != nil {
			return nil, fmt.Errorf("key version %d: %w", w.Version, err)
		}
		k := keystore.KeyPair{
			Version: w.Version, Algorithm: w.Algorithm, KeyID: w.KeyID, CreatedAt: w.CreatedAt, Signer: signer,
		}
		if err := k.Validate(); err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// clearKeys overwrites the private keys of a list that is no longer needed.
func clearKeys(list []keyPair) {
	for _, k := range list {
		clear(k.PrivateKey)
	}
}

// access is a rest.Config with a client certificate, all of it in memory.
type access struct {
	Host        string  `json:"host"`
	ServerName  string  `json:"serverName,omitempty"`
	CA          []byte  `json:"ca,omitempty"`
	Certificate []byte  `json:"certificate,omitempty"`
	PrivateKey  []byte  `json:"privateKey,omitempty"`
	QPS         float32 `json:"qps,omitempty"`
	UserAgent   string  `json:"userAgent,omitempty"`
}

func (a access) restConfig() *rest.Config {
	return &rest.Config{
		Host: a.Host, QPS: a.QPS, UserAgent: a.UserAgent,
		TLSClientConfig: rest.TLSClientConfig{
			ServerName: a.ServerName, CAData: a.CA, CertData: a.Certificate, KeyData: a.PrivateKey,
		},
	}
}

// encodeConfig refuses a configuration that refers to files or functions of this program, which the other side lacks.
func encodeConfig(cfg *rest.Config) (access, error) {
	a := access{
		Host: cfg.Host, ServerName: cfg.ServerName, CA: cfg.CAData, Certificate: cfg.CertData, PrivateKey: cfg.KeyData,
		QPS: cfg.QPS, UserAgent: cfg.UserAgent,
	}
	if !reflect.DeepEqual(a.restConfig(), cfg) {
		return access{}, fmt.Errorf("reaching %s takes more than a client certificate in memory", cfg.Host)
	}
	return a, nil
}

// errBody is the error of a body that cannot be read. It contains nothing of the body.
var errBody = errors.New("not a JSON object of this protocol, or one of another release")

// decode reads a whole body. It refuses unknown fields.
func decode(body []byte, into any) error {
	if strict, err := json.UnmarshalStrict(body, into); err != nil || len(strict) > 0 {
		return errBody
	}
	return nil
}
