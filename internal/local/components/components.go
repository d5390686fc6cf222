package components

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/jwks"
)

// Ports of the components, and the last bytes of their loopback addresses.
const (
	APIServerPort          = "6443"
	etcdClientPort         = "2379"
	etcdPeerPort           = "2380"
	ControllerManagerPort  = "10257"
	schedulerPort          = "10259"
	etcdLocal              = 2
	ControllerManagerLocal = 20
	schedulerLocal         = 30
	secondaryCount         = 2 // kube-controller-managers and kube-schedulers of a cluster with several API servers
)

// ReadyPath skips two checks that are not about serving. They only show that a start has checked objects in etcd that
// an earlier start wrote, and they begin with a pause of a second in which the API server could already serve. Code
// that makes a new cluster needs those objects, and uses FullReadyPath.
const (
	FullReadyPath = "/readyz"
	ReadyPath     = FullReadyPath + "?exclude=poststarthook/rbac/bootstrap-roles" +
		"&exclude=poststarthook/scheduling/bootstrap-system-priority-classes"
)

// Layout determines the command lines of a cluster's components.
type Layout struct {
	datadir.Site
	// Version is the Kubernetes version, such as "v1.36.4".
	Version     string
	ServiceCIDR netip.Prefix
	PodCIDR     netip.Prefix
	// Replicas is the number of API servers.
	Replicas int
	// Issuer is the issuer of all tokens.
	Issuer string
	// Encrypted means that Secrets are encrypted at rest, with the file encryption.yaml.
	Encrypted bool
}

// Secondaries returns the number of kube-controller-managers and of kube-schedulers.
func (l Layout) Secondaries() int {
	if l.Replicas > 1 {
		return secondaryCount
	}
	return 1
}

// PKI returns the path of a certificate or key.
func (l Layout) PKI(name string) string { return l.Path("pki", name) }

// Kubeconfig returns the path of a component's kubeconfig.
func (l Layout) Kubeconfig(name string) string { return l.Path("kubeconfig", name+".conf") }

// APIServerURL returns the URL of the i-th API server, not through the load balancer.
func (l Layout) APIServerURL(i int) string { return HTTPS(l.APIServer(i), APIServerPort) }

// Endpoint returns the URL that clients reach the API servers at.
func (l Layout) Endpoint() string { return HTTPS(l.LoadBalancer(), APIServerPort) }

// HTTPS returns the URL of an address.
func HTTPS(a netip.Addr, port string) string { return "https://" + a.String() + ":" + port }

// APIServerName returns the name of the i-th API server and of its process.
func APIServerName(i int) string { return "apiserver-" + strconv.Itoa(i) }

// ControllerManagerName returns the name of the i-th kube-controller-manager and of its process.
func ControllerManagerName(i int) string { return "controller-manager-" + strconv.Itoa(i) }

// SchedulerName returns the name of the process of the i-th kube-scheduler.
func SchedulerName(i int) string { return "scheduler-" + strconv.Itoa(i) }

// APIServerKeys returns the keys of the i-th API server on disk.
func (l Layout) APIServerKeys(i int) hostkeys.APIServer {
	return hostkeys.APIServer{Dir: l.Path(APIServerName(i), "keys"), SignerDir: l.Path(APIServerName(i), "signer-keys")}
}

// ControllerManagerKeys returns the key of the i-th kube-controller-manager on disk.
func (l Layout) ControllerManagerKeys(i int) hostkeys.ControllerManager {
	return hostkeys.ControllerManager{Dir: l.Path(ControllerManagerName(i), "keys")}
}

// EtcdProcess runs one member, for clients with a certificate of the etcd authority only.
func (l Layout) EtcdProcess(binary string) process.Spec {
	client := HTTPS(l.Local(etcdLocal), etcdClientPort)
	peer := HTTPS(l.Local(etcdLocal), etcdPeerPort)
	return process.Spec{Name: "etcd", Path: binary, Args: []string{
		"--name=etcd-0",
		"--data-dir=" + l.Path("etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=etcd-0=" + peer,
		"--client-cert-auth=true",
		"--trusted-ca-file=" + l.PKI("etcd-ca.crt"),
		"--cert-file=" + l.PKI("etcd.crt"),
		"--key-file=" + l.PKI("etcd.key"),
		"--peer-client-cert-auth=true",
		"--peer-trusted-ca-file=" + l.PKI("etcd-ca.crt"),
		"--peer-cert-file=" + l.PKI("etcd.crt"),
		"--peer-key-file=" + l.PKI("etcd.key"),
		"--log-level=warn",
	}}
}

// APIServerProcess runs an API server with these keys. They are its stamp, which later shows what it runs with.
func (l Layout) APIServerProcess(binary string, i int, keys controlplane.Keys) process.Spec {
	args := l.apiServerServing(i)
	if keys.External {
		// An API server that is stopped closes its connection to the signer at once, and then fails every TokenRequest.
		// The load balancer was changed before.
		args = append(args, "--shutdown-delay-duration=0s")
	} else {
		args = append(args, "--shutdown-delay-duration=500ms")
	}
	args = append(args, l.apiServerClients()...)
	args = append(args, l.apiServerTokens(i, keys)...)
	if l.Encrypted {
		args = append(args, "--encryption-provider-config="+l.Path("encryption.yaml"))
	}
	// Half the garbage collection for a quarter more memory, since starting costs the most CPU. Its identity among the
	// API servers of the cluster, a Lease, depends only on the host name.
	return process.Spec{
		Name: APIServerName(i), Path: binary, Args: args, Env: []string{"GOGC=200"}, Dir: l.ServerDir(i),
		Hostname: APIServerName(i), Stamp: stampKeys(keys),
	}
}

// apiServerServing returns the flags for where and what it serves, and how it stops. The kubernetes Service leads to
// the load balancer, not to the API servers, hence --endpoint-reconciler-type=none: pods also avoid a server that the
// load balancer does not use. The load balancer checks twice within the shutdown delay, in case a server is stopped
// without being drained first.
func (l Layout) apiServerServing(i int) []string {
	return []string{
		"--bind-address=" + l.APIServer(i).String(),
		"--advertise-address=" + l.APIServer(i).String(),
		"--secure-port=" + APIServerPort,
		"--tls-cert-file=" + l.PKI(APIServerName(i)+".crt"),
		"--tls-private-key-file=" + l.PKI(APIServerName(i)+".key"),
		"--tls-min-version=VersionTLS13",
		"--service-cluster-ip-range=" + l.ServiceCIDR.String(),
		"--endpoint-reconciler-type=none",
		"--etcd-servers=" + HTTPS(l.Local(etcdLocal), etcdClientPort),
		"--etcd-cafile=" + l.PKI("etcd-ca.crt"),
		"--etcd-certfile=" + l.PKI("apiserver-etcd-client.crt"),
		"--etcd-keyfile=" + l.PKI("apiserver-etcd-client.key"),
		"--allow-privileged=true",
		"--profiling=false",
		"--shutdown-watch-termination-grace-period=1s",
	}
}

// apiServerClients returns the flags for authorization, and for reaching kubelets and aggregated API servers.
func (l Layout) apiServerClients() []string {
	return []string{
		"--client-ca-file=" + l.PKI("ca.crt"),
		"--authentication-config=" + l.Path("authentication.yaml"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--admission-control-config-file=" + l.Path("admission.yaml"),
		"--enable-bootstrap-token-auth=true",
		"--kubelet-client-certificate=" + l.PKI("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + l.PKI("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP,Hostname",
		"--requestheader-client-ca-file=" + l.PKI("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + l.PKI("front-proxy-client.crt"),
		"--proxy-client-key-file=" + l.PKI("front-proxy-client.key"),
	}
}

func (l Layout) apiServerTokens(i int, keys controlplane.Keys) []string {
	disk := l.APIServerKeys(i)
	args := []string{"--service-account-issuer=" + l.Issuer}
	if l.Issuer != v1alpha1.DefaultIssuer {
		args = append(args, "--service-account-jwks-uri="+l.Issuer+jwks.Path) // the default names the API server
	}
	if keys.External {
		return append(args, "--service-account-signing-endpoint="+SignerSocket)
	}
	for _, v := range keys.Verify {
		args = append(args, "--service-account-key-file="+disk.PublicKey(v))
	}
	return append(args, "--service-account-signing-key-file="+disk.PrivateKey(keys.Sign))
}

// ControllerManagerProcess signs legacy tokens with one key version, which is its stamp. It does not authenticate its
// callers through an API server, so that it can start before RBAC exists: only clients in system:masters get more than
// its health.
func (l Layout) ControllerManagerProcess(binary string, i, sign int) process.Spec {
	name := ControllerManagerName(i)
	args := []string{
		"--kubeconfig=" + l.Kubeconfig("controller-manager"),
		"--bind-address=" + l.Local(ControllerManagerLocal+byte(i)).String(),
		"--secure-port=" + ControllerManagerPort,
		"--tls-cert-file=" + l.PKI("controller-manager-serving.crt"),
		"--tls-private-key-file=" + l.PKI("controller-manager-serving.key"),
		"--client-ca-file=" + l.PKI("ca.crt"),
		"--cluster-name=" + l.Name,
		"--controllers=*,token-cleaner-controller",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + l.ControllerManagerKeys(i).PrivateKey(sign),
		"--root-ca-file=" + l.PKI("ca.crt"),
		"--cluster-signing-cert-file=" + l.PKI("ca.crt"),
		"--cluster-signing-key-file=" + l.PKI("ca.key"),
		"--allocate-node-cidrs=false",
		"--service-cluster-ip-range=" + l.ServiceCIDR.String(),
		"--profiling=false",
		"--kube-api-qps=100",
		"--kube-api-burst=200",
	}
	return process.Spec{Name: name, Path: binary, Args: append(args, l.leaderElection()...), Stamp: strconv.Itoa(sign)}
}

// SchedulerProcess runs the i-th kube-scheduler.
func (l Layout) SchedulerProcess(binary string, i int) process.Spec {
	args := []string{
		"--kubeconfig=" + l.Kubeconfig("scheduler"),
		"--bind-address=" + l.Local(schedulerLocal+byte(i)).String(),
		"--secure-port=" + schedulerPort,
		"--tls-cert-file=" + l.PKI("scheduler-serving.crt"),
		"--tls-private-key-file=" + l.PKI("scheduler-serving.key"),
		"--client-ca-file=" + l.PKI("ca.crt"),
		"--profiling=false",
		"--kube-api-qps=100",
		"--kube-api-burst=200",
	}
	return process.Spec{Name: SchedulerName(i), Path: binary, Args: append(args, l.leaderElection()...)}
}

// leaderElection lets a standby take over 6 s after the leader died. A single process needs no election and works as
// soon as it runs.
func (l Layout) leaderElection() []string {
	if l.Secondaries() == 1 {
		return []string{"--leader-elect=false"}
	}
	return []string{
		"--leader-elect=true",
		"--leader-elect-lease-duration=6s",
		"--leader-elect-renew-deadline=4s",
		"--leader-elect-retry-period=1s",
	}
}

// HAProxyProcess runs the load balancer.
func (l Layout) HAProxyProcess(binary string) process.Spec {
	return process.Spec{
		Name: LoadBalancerName, Path: binary, Dir: l.Path("run"), Args: []string{"-db", "-f", l.Path("haproxy.cfg")},
	}
}

func stampKeys(k controlplane.Keys) string {
	raw, err := json.Marshal(k)
	if err != nil {
		panic(err) // integers always encode
	}
	return string(raw)
}

// keysOfStamp returns the zero Keys for a process that does not run.
func keysOfStamp(stamp string) (controlplane.Keys, error) {
	var k controlplane.Keys
	if stamp == "" {
		return k, nil
	}
	if err := json.Unmarshal([]byte(stamp), &k); err != nil {
		return k, fmt.Errorf("reading the stamp of an API server: %w", err)
	}
	return k, nil
}

// AuthenticationConfig allows a caller without credentials only to read health.
const AuthenticationConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
`

// AdmissionConfig refuses pods that could escape from their machine, which cannot contain them, unless a namespace
// requests another level with its label pod-security.kubernetes.io/enforce.
const AdmissionConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults:
      enforce: baseline
      enforce-version: latest
`
