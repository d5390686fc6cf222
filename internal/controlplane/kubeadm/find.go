package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"

	"github.com/keyturn/keyturn/internal/agent/manifest"
)

// controlPlaneLabel is on the nodes that kubeadm made control-plane nodes.
const controlPlaneLabel = "node-role.kubernetes.io/control-plane"

// componentLabel is on the static pods of kubeadm.
const componentLabel = "component"

// The values of componentLabel.
const (
	apiServer         = "kube-apiserver"
	controllerManager = "kube-controller-manager"
)

// Server is one API server as its mirror pod describes it.
type Server struct {
	// Node is the name of its node. Its mirror pod is kube-apiserver-NODE.
	Node string
	// Address is where it listens, as Service kubernetes knows it.
	Address string
	// Port is the one of its node that it listens on.
	Port int
	// VerifyFiles are the files of its --service-account-key-file, and SignFile is its --service-account-signing-key-file.
	VerifyFiles []string
	SignFile    string
	// SignerSocket is its --service-account-signing-endpoint; empty if it signs with a file.
	SignerSocket string
	// NoSigner is why it could not run with a signer of Keyturn, as a sentence without its period; empty if nothing is
	// known to be in the way.
	NoSigner string
	// Issuers are its --service-account-issuer, the first of which it signs for.
	Issuers []string
	// Mark is for what Keyturn restarted it last, as its mirror pod shows; empty for nothing.
	Mark string
	// Waiting is why it is not asked, in words; empty as a rule. Of a server that no pod shows, only Node and Address are
	// known.
	Waiting string
	// Unlabelled means that its node lacks the label of the control plane, so that no agent runs there. Any node can show
	// a pod as if it had an API server, and no node can label itself.
	Unlabelled bool
	// Leaving means that its node is being deleted, or is gone. It may serve for a while.
	Leaving bool
	// Listed means that Service kubernetes has its address, so that pods reach it.
	Listed bool
}

// Manager is one kube-controller-manager.
type Manager struct {
	Node string
	// Mark is what Keyturn started it with last, as its mirror pod shows; empty for nothing.
	Mark string
}

// Found is what was found of a control plane.
type Found struct {
	// Servers are the API servers, and Managers the kube-controller-managers, by node.
	Servers  []Server
	Managers []Manager
	// Problems are why Keyturn cannot rotate the keys of this control plane, each a sentence without its period. Empty: it
	// can.
	Problems []string
}

// objects are what Find reads.
type objects struct {
	// nodes are those with the label of the control plane; others are names of nodes that exist and lack it.
	nodes  []corev1.Node
	others []string
	// joining are nodes that lack the label, and whose address Service kubernetes has while no pod shows their API server.
	joining   []corev1.Node
	pods      []corev1.Pod
	endpoints []discoveryv1.EndpointSlice
}

// Find finds the API servers of a cluster. An error means that it could not see everything.
func Find(ctx context.Context, client kubernetes.Interface) (Found, error) {
	o, err := read(ctx, client)
	if err != nil {
		return Found{}, fmt.Errorf("finding the API servers: %w", err)
	}
	return o.examine(), nil
}

func read(ctx context.Context, client kubernetes.Interface) (o objects, err error) {
	errs := make([]error, 3)
	var all sync.WaitGroup
	all.Go(func() {
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: controlPlaneLabel})
		if errs[0] = err; err == nil {
			o.nodes = nodes.Items
		}
	})
	all.Go(func() {
		pods, err := client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
			LabelSelector: componentLabel + " in (" + apiServer + ", " + controllerManager + ")",
		})
		if errs[1] = err; err == nil {
			o.pods = mirrors(pods.Items)
		}
	})
	all.Go(func() {
		endpoints, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
			LabelSelector: discoveryv1.LabelServiceName + "=kubernetes",
		})
		if errs[2] = err; err == nil {
			o.endpoints = endpoints.Items
		}
	})
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return objects{}, err
	}
	if err := o.readOthers(ctx, client); err != nil {
		return objects{}, err
	}
	return o, o.readJoining(ctx, client)
}

// readOthers looks for nodes that run an API server and lack the label.
func (o *objects) readOthers(ctx context.Context, client kubernetes.Interface) error {
	for _, p := range o.of(apiServer) {
		if o.node(p.Spec.NodeName) != nil {
			continue
		}
		_, err := client.CoreV1().Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{})
		if err == nil {
			o.others = append(o.others, p.Spec.NodeName)
		} else if !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// readJoining looks for nodes whose API server serves before anything shows it: their mirror pod comes later, and their
// label last.
func (o *objects) readJoining(ctx context.Context, client kubernetes.Interface) error {
	servers, _ := o.servers()
	strays := o.strays(servers)
	if len(strays) == 0 {
		return nil
	}
	pages := pager.New(func(ctx context.Context, page metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Nodes().List(ctx, page)
	})
	return pages.EachListItem(ctx, metav1.ListOptions{}, func(object runtime.Object) error {
		if n := object.(*corev1.Node); contains(strays, internalIP(*n)) {
			o.joining, o.others = append(o.joining, *n), append(o.others, n.Name)
		}
		return nil
	})
}

// node returns a node with the label; nil if there is none.
func (o objects) node(name string) *corev1.Node {
	i := slices.IndexFunc(o.nodes, func(n corev1.Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &o.nodes[i]
}

// leaving reports whether a node is gone, or being deleted.
func (o objects) leaving(name string) bool {
	n := o.node(name)
	return n != nil && n.DeletionTimestamp != nil || n == nil && !slices.Contains(o.others, name)
}

// mirrors leaves out pods that are not those of a kubelet's static pods: anybody may set a label.
func mirrors(pods []corev1.Pod) []corev1.Pod {
	return slices.DeleteFunc(pods, func(p corev1.Pod) bool {
		return !isMirror(p, p.Labels[componentLabel])
	})
}

// isMirror reports whether a pod is the one that a kubelet shows for its static pod of this name.
func isMirror(p corev1.Pod, name string) bool {
	_, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror && p.Name == name+"-"+p.Spec.NodeName
}

// examine compares what was read.
func (o objects) examine() Found {
	var f Found
	f.Servers, f.Problems = o.servers()
	for i := range f.Servers {
		s := &f.Servers[i]
		s.Leaving, s.Listed = o.leaving(s.Node), contains(o.addresses(), s.Address)
		if s.Unlabelled = slices.Contains(o.others, s.Node); s.Unlabelled {
			s.Waiting = unlabelled(s.Node)
		}
	}
	for _, p := range o.of(controllerManager) {
		f.Managers = append(f.Managers, Manager{p.Spec.NodeName, p.Annotations[manifest.RestartAnnotation]})
	}
	slices.SortFunc(f.Servers, func(a, b Server) int { return strings.Compare(a.Node, b.Node) })
	slices.SortFunc(f.Managers, func(a, b Manager) int { return strings.Compare(a.Node, b.Node) })
	for _, address := range o.strays(f.Servers) {
		f.Problems = append(f.Problems, fmt.Sprintf("the API server at %s is on no node with the label %s: "+
			"Keyturn cannot reach its keys", address, controlPlaneLabel))
	}
	slices.Sort(f.Problems)
	return f
}

// unlabelled is why the API server of a node is not asked, in words.
func unlabelled(node string) string {
	return fmt.Sprintf("node %s lacks the label %s, which kubeadm join gives it at its end: kubectl label node %s %s=",
		node, controlPlaneLabel, node, controlPlaneLabel)
}

// servers returns the API servers that have a mirror pod, and those that should have one.
func (o objects) servers() (servers []Server, problems []string) {
	for _, p := range o.of(apiServer) {
		s, wrong := o.server(p)
		servers = append(servers, s)
		problems = append(problems, wrong...)
	}
	problems = append(problems, differences(servers, len(o.nodes))...)
	return append(servers, o.silent(servers)...), problems
}

// of returns the mirror pods of a component.
func (o objects) of(component string) []corev1.Pod {
	return slices.DeleteFunc(slices.Clone(o.pods), func(p corev1.Pod) bool {
		return p.Labels[componentLabel] != component
	})
}

// server reads one API server from its mirror pod.
func (o objects) server(p corev1.Pod) (s Server, problems []string) {
	node := p.Spec.NodeName
	flags, err := flagsOf(p, apiServer)
	if err != nil {
		return Server{Node: node}, []string{fmt.Sprintf("kube-apiserver on node %s: %v", node, err)}
	}
	s = Server{
		Node: node, Port: securePort, Address: flags.last("advertise-address"),
		VerifyFiles: flags["service-account-key-file"], SignFile: flags.last("service-account-signing-key-file"),
		SignerSocket: flags.last("service-account-signing-endpoint"), Issuers: flags["service-account-issuer"],
		Mark: p.Annotations[manifest.RestartAnnotation], NoSigner: noSigner(p, flags),
	}
	if s.Address == "" {
		s.Address = p.Status.HostIP
	}
	if port := flags.last("secure-port"); port != "" {
		if s.Port, err = strconv.Atoi(port); err != nil {
			problems = append(problems, fmt.Sprintf("kube-apiserver on node %s has --secure-port=%s", node, port))
		}
	}
	return s, append(problems, o.keyProblems(p, s, flags)...)
}

// keyProblems is what is wrong with the keys of one API server and of the kube-controller-manager beside it.
func (o objects) keyProblems(p corev1.Pod, s Server, flags flagSet) (problems []string) {
	say := func(format string, args ...any) {
		problems = append(problems, fmt.Sprintf("kube-apiserver on node "+s.Node+" "+format, args...))
	}
	if s.SignerSocket != "" {
		return nil
	}
	if len(s.VerifyFiles) == 0 || s.SignFile == "" {
		say("has no service account key of its own: set --service-account-key-file and --service-account-signing-key-file")
		return problems
	}
	files := append([]string{s.SignFile}, s.VerifyFiles...)
	if tls := flags.last("tls-private-key-file"); slices.Contains(files, tls) {
		say("signs tokens with the key of its serving certificate, %s: give it a key of its own", tls)
	}
	for _, file := range slices.Compact(files) {
		if !mounted(p, file) {
			say("reads %s, which is in no directory of the host: a file that is mounted alone cannot be replaced", file)
		}
	}
	for _, m := range o.of(controllerManager) {
		if m.Spec.NodeName != s.Node {
			continue
		}
		managed, err := flagsOf(m, controllerManager)
		if key := managed.last("service-account-private-key-file"); err == nil && key != s.SignFile {
			say("signs with %s, and kube-controller-manager with %q: they must share one key", s.SignFile, key)
		}
	}
	return problems
}

// strays are the endpoint addresses of Service kubernetes that belong to none of the API servers.
func (o objects) strays(servers []Server) []string {
	var own []string
	for _, s := range servers {
		own = append(own, s.Address)
	}
	return slices.DeleteFunc(o.addresses(), func(address string) bool { return contains(own, address) })
}

// contains reports whether an address is among others. A flag may have another spelling of it than an endpoint.
func contains(addresses []string, address string) bool {
	ip, err := netip.ParseAddr(address)
	return slices.ContainsFunc(addresses, func(other string) bool {
		if err != nil {
			return other == address
		}
		o, err := netip.ParseAddr(other)
		return err == nil && o.Unmap() == ip.Unmap()
	})
}

// addresses returns the endpoint addresses of Service kubernetes.
func (o objects) addresses() (all []string) {
	for _, slice := range o.endpoints {
		for _, e := range slice.Endpoints {
			all = append(all, e.Addresses...)
		}
	}
	return all
}

// silent are control-plane nodes whose API server has no mirror pod: it may be starting, or for ever away.
func (o objects) silent(servers []Server) (silent []Server) {
	wait := func(n corev1.Node, has string) {
		if slices.ContainsFunc(servers, func(s Server) bool { return s.Node == n.Name }) {
			return
		}
		silent = append(silent, Server{
			Node: n.Name, Address: internalIP(n),
			Waiting: fmt.Sprintf("node %s has %s and no pod %s-%s", n.Name, has, apiServer, n.Name),
		})
	}
	for _, n := range o.nodes {
		wait(n, "the label "+controlPlaneLabel)
	}
	for _, n := range o.joining {
		wait(n, "an API server at its address")
	}
	return silent
}

// internalIP returns the address of a node in its cluster; empty if it shows none.
func internalIP(n corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}

// differences are what API servers must have in common, and have not. Where nodes have the label of the control plane,
// mirror pods may be late.
func differences(servers []Server, nodes int) (problems []string) {
	if len(servers) == 0 && nodes == 0 {
		return []string{"no pod with the label " + componentLabel + "=" + apiServer + " in namespace " +
			metav1.NamespaceSystem + " is a kubelet's: the control plane was not made by kubeadm"}
	}
	for _, s := range servers[min(1, len(servers)):] {
		if first := servers[0]; !slices.Equal(s.Issuers, first.Issuers) {
			problems = append(problems, fmt.Sprintf("kube-apiserver on node %s has the issuers %q, and on node %s %q: "+
				"they must be the same", first.Node, first.Issuers, s.Node, s.Issuers))
		}
	}
	return problems
}

// Config returns how to reach one API server alone, with the credentials of cfg, which reaches any of them. Whoever
// answers gets these credentials, so only nodes that an administrator has made part of the control plane are asked.
func Config(cfg *rest.Config, s Server) (*rest.Config, error) {
	if s.Waiting != "" {
		return nil, errors.New(s.Waiting)
	}
	if s.Node == "" || s.Port == 0 {
		return nil, errors.New("reaching an API server: its node or its port is not known")
	}
	dial, err := forward(cfg, apiServer+"-"+s.Node, s.Port)
	if err != nil {
		return nil, fmt.Errorf("reaching the API server on node %s: %w", s.Node, err)
	}
	own := rest.CopyConfig(cfg)
	own.Host = fmt.Sprintf("https://%s:%d", s.Node, s.Port)
	own.ServerName = s.Node
	own.Dial = dial
	return own, nil
}
