package local

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/jwks"
)

const (
	apiServerPort   = "6443"
	etcdClientPort  = "2379"
	etcdPeerPort    = "2380"
	managerPort     = "10257"
	schedulerPort   = "10259"
	etcdLocal       = 2
	managerLocal    = 20
	schedulerLocal  = 30
	secondaryCount  = 2 // kube-controller-managers and kube-schedulers of a cluster with several API servers
	binaryEtcd      = "etcd"
	binaryAPIServer = "kube-apiserver"
	binaryManager   = "kube-controller-manager"
	binaryScheduler = "kube-scheduler"
)

// readyPath leaves out the two checks that only say that a start has looked through objects of etcd which another start has
// written long ago; they begin with a pause of a second in which the API server could serve. Who makes a new cluster needs
// those objects, and asks fullReadyPath.
const (
	fullReadyPath = "/readyz"
	readyPath     = fullReadyPath + "?exclude=poststarthook/rbac/bootstrap-roles" +
		"&exclude=poststarthook/scheduling/bootstrap-system-priority-classes"
)

// layout is what the command lines of a cluster's components follow from, and nothing else.
type layout struct {
	Site
	// Version is the Kubernetes version, such as "v1.36.4".
	Version     string
	ServiceCIDR netip.Prefix
	PodCIDR     netip.Prefix
	// Replicas is the number of API servers.
	Replicas int
	// Issuer is that of all tokens.
	Issuer string
	// Encrypted says that Secrets are encrypted at rest, by the file encryption.yaml.
	Encrypted bool
}

// secondaries is the number of kube-controller-managers and of kube-schedulers.
func (l layout) secondaries() int {
	if l.Replicas > 1 {
		return secondaryCount
	}
	return 1
}

func (l layout) pki(name string) string { return l.Path("pki", name) }

func (l layout) kubeconfig(name string) string { return l.Path("kubeconfig", name+".conf") }

func (l layout) apiServerURL(i int) string { return https(l.APIServer(i), apiServerPort) }

// endpoint is where clients reach the API servers.
func (l layout) endpoint() string { return https(l.LoadBalancer(), apiServerPort) }

func https(a netip.Addr, port string) string { return "https://" + a.String() + ":" + port }

func apiServerName(i int) string { return "apiserver-" + strconv.Itoa(i) }

func managerName(i int) string { return "controller-manager-" + strconv.Itoa(i) }

func schedulerName(i int) string { return "scheduler-" + strconv.Itoa(i) }

// apiServerKeys are the keys of the i-th API server on disk.
func (l layout) apiServerKeys(i int) hostkeys.APIServer {
	return hostkeys.APIServer{Dir: l.Path(apiServerName(i), "keys"), SignerDir: l.Path(apiServerName(i), "signer-keys")}
}

// managerKeys is the key of the i-th kube-controller-manager on disk.
func (l layout) managerKeys(i int) hostkeys.ControllerManager {
	return hostkeys.ControllerManager{Dir: l.Path(managerName(i), "keys")}
}

// etcd serves one member, to clients with a certificate of the etcd authority only.
func (l layout) etcd(binary string) process.Spec {
	client := https(l.Local(etcdLocal), etcdClientPort)
	peer := https(l.Local(etcdLocal), etcdPeerPort)
	return process.Spec{Name: "etcd", Path: binary, Args: []string{
		"--name=etcd-0",
		"--data-dir=" + l.Path("etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=etcd-0=" + peer,
		"--client-cert-auth=true",
		"--trusted-ca-file=" + l.pki("etcd-ca.crt"),
		"--cert-file=" + l.pki("etcd.crt"),
		"--key-file=" + l.pki("etcd.key"),
		"--peer-client-cert-auth=true",
		"--peer-trusted-ca-file=" + l.pki("etcd-ca.crt"),
		"--peer-cert-file=" + l.pki("etcd.crt"),
		"--peer-key-file=" + l.pki("etcd.key"),
		"--log-level=warn",
	}}
}

// apiServer runs with these keys. They are its stamp, by which it is known later what it runs with.
func (l layout) apiServer(binary string, i int, keys controlplane.Keys) process.Spec {
	args := l.apiServerServing(i)
	if keys.External {
		// An API server that is told to end hangs up on its signer at once, and fails every TokenRequest from then on. The
		// load balancer was told before.
		args = append(args, "--shutdown-delay-duration=0s")
	} else {
		args = append(args, "--shutdown-delay-duration=500ms")
	}
	args = append(args, l.apiServerClients()...)
	args = append(args, l.apiServerTokens(i, keys)...)
	if l.Encrypted {
		args = append(args, "--encryption-provider-config="+l.Path("encryption.yaml"))
	}
	// Half the garbage collection for a quarter more memory: starting costs CPU more than anything.
	// Its identity among the API servers of the cluster, a Lease, follows from the host's name and nothing else.
	return process.Spec{
		Name: apiServerName(i), Path: binary, Args: args, Env: []string{"GOGC=200"}, Dir: l.serverDir(i),
		Hostname: apiServerName(i), Stamp: stampKeys(keys),
	}
}

// apiServerServing says where it serves, what, and how it stops. The kubernetes Service leads to the load balancer, not to
// the API servers: so --endpoint-reconciler-type=none, and a server that the load balancer leaves out is left alone by pods too.
// The load balancer checks twice within the shutdown delay, for who stops a server without draining it first.
func (l layout) apiServerServing(i int) []string {
	return []string{
		"--bind-address=" + l.APIServer(i).String(),
		"--advertise-address=" + l.APIServer(i).String(),
		"--secure-port=" + apiServerPort,
		"--tls-cert-file=" + l.pki(apiServerName(i)+".crt"),
		"--tls-private-key-file=" + l.pki(apiServerName(i)+".key"),
		"--tls-min-version=VersionTLS13",
		"--service-cluster-ip-range=" + l.ServiceCIDR.String(),
		"--endpoint-reconciler-type=none",
		"--etcd-servers=" + https(l.Local(etcdLocal), etcdClientPort),
		"--etcd-cafile=" + l.pki("etcd-ca.crt"),
		"--etcd-certfile=" + l.pki("apiserver-etcd-client.crt"),
		"--etcd-keyfile=" + l.pki("apiserver-etcd-client.key"),
		"--allow-privileged=true",
		"--profiling=false",
		"--shutdown-watch-termination-grace-period=1s",
	}
}

// apiServerClients says who may do what, and how it reaches kubelets and aggregated API servers.
func (l layout) apiServerClients() []string {
	return []string{
		"--client-ca-file=" + l.pki("ca.crt"),
		"--authentication-config=" + l.Path("authentication.yaml"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--admission-control-config-file=" + l.Path("admission.yaml"),
		"--enable-bootstrap-token-auth=true",
		"--kubelet-client-certificate=" + l.pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + l.pki("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP,Hostname",
		"--requestheader-client-ca-file=" + l.pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + l.pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + l.pki("front-proxy-client.key"),
	}
}

func (l layout) apiServerTokens(i int, keys controlplane.Keys) []string {
	disk := l.apiServerKeys(i)
	args := []string{"--service-account-issuer=" + l.Issuer}
	if l.Issuer != v1alpha1.DefaultIssuer {
		args = append(args, "--service-account-jwks-uri="+l.Issuer+jwks.Path) // else it names the API server
	}
	if keys.External {
		return append(args, "--service-account-signing-endpoint="+signerSocket)
	}
	for _, v := range keys.Verify {
		args = append(args, "--service-account-key-file="+disk.PublicKey(v))
	}
	return append(args, "--service-account-signing-key-file="+disk.PrivateKey(keys.Sign))
}

// controllerManager signs legacy tokens with one key version, which is its stamp. It asks no API server who its own
// callers are, so that it can start before RBAC is there: only clients in system:masters get more than its health.
func (l layout) controllerManager(binary string, i, sign int) process.Spec {
	name := managerName(i)
	args := []string{
		"--kubeconfig=" + l.kubeconfig("controller-manager"),
		"--bind-address=" + l.Local(managerLocal+byte(i)).String(),
		"--secure-port=" + managerPort,
		"--tls-cert-file=" + l.pki("controller-manager-serving.crt"),
		"--tls-private-key-file=" + l.pki("controller-manager-serving.key"),
		"--client-ca-file=" + l.pki("ca.crt"),
		"--cluster-name=" + l.Name,
		"--controllers=*,token-cleaner-controller",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + l.managerKeys(i).PrivateKey(sign),
		"--root-ca-file=" + l.pki("ca.crt"),
		"--cluster-signing-cert-file=" + l.pki("ca.crt"),
		"--cluster-signing-key-file=" + l.pki("ca.key"),
		"--allocate-node-cidrs=false",
		"--service-cluster-ip-range=" + l.ServiceCIDR.String(),
		"--profiling=false",
		"--kube-api-qps=100",
		"--kube-api-burst=200",
	}
	return process.Spec{Name: name, Path: binary, Args: append(args, l.leaderElection()...), Stamp: strconv.Itoa(sign)}
}

func (l layout) scheduler(binary string, i int) process.Spec {
	args := []string{
		"--kubeconfig=" + l.kubeconfig("scheduler"),
		"--bind-address=" + l.Local(schedulerLocal+byte(i)).String(),
		"--secure-port=" + schedulerPort,
		"--tls-cert-file=" + l.pki("scheduler-serving.crt"),
		"--tls-private-key-file=" + l.pki("scheduler-serving.key"),
		"--client-ca-file=" + l.pki("ca.crt"),
		"--profiling=false",
		"--kube-api-qps=100",
		"--kube-api-burst=200",
	}
	return process.Spec{Name: schedulerName(i), Path: binary, Args: append(args, l.leaderElection()...)}
}

// leaderElection lets a standby take over 6 s after the leader died. A single process needs none and, without it, works as soon as
// it runs.
func (l layout) leaderElection() []string {
	if l.secondaries() == 1 {
		return []string{"--leader-elect=false"}
	}
	return []string{
		"--leader-elect=true",
		"--leader-elect-lease-duration=6s",
		"--leader-elect-renew-deadline=4s",
		"--leader-elect-retry-period=1s",
	}
}

func (l layout) haproxy(binary string) process.Spec {
	return process.Spec{Name: loadBalancerName, Path: binary, Dir: l.Path("run"), Args: []string{"-db", "-f", l.Path("haproxy.cfg")}}
}

func stampKeys(k controlplane.Keys) string {
	raw, err := json.Marshal(k)
	if err != nil {
		panic(err) // integers always encode
	}
	return string(raw)
}

// keysOfStamp is the zero Keys for a process that does not run.
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

// authenticationConfig lets a caller without credentials ask for health only.
const authenticationConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
`

// admissionConfig refuses pods that could leave their machine, which is no wall against them, unless a namespace asks
// for another level by its label pod-security.kubernetes.io/enforce.
const admissionConfig = `apiVersion: apiserver.config.k8s.io/v1
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
