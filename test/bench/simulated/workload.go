package simulated

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/websocket"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// nodeDomain ends the names of all nodes.
const nodeDomain = "nodes.test"

// workload is a cluster as its load balancer and its API servers show it: of each what kubeadm made, which the
// controller reads, and objects that the controller makes.
type workload struct {
	name string
	http *http.Server
	dir  string
	// lb is the address of the load balancer.
	lb net.Listener

	mu      sync.Mutex
	made    int
	servers []*apiServer
	// objects are those that were created, by the path that reads them.
	objects map[string]object
}

// apiServer is one API server, on a node of its own.
type apiServer struct {
	node, address string
	listener      net.Listener
	keys          served
}

// object is the body of a request that made it.
type object struct {
	contentType string
	body        []byte
}

// serveWorkload serves a cluster that has no API servers yet, until ctx ends.
func serveWorkload(ctx context.Context, name, dir string) (*workload, error) {
	w := &workload{name: name, dir: dir, objects: map[string]object{}}
	w.http = &http.Server{
		Handler: http.HandlerFunc(w.serve), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
	}
	context.AfterFunc(ctx, func() { _ = w.http.Close() })
	var err error
	w.lb, err = w.listen()
	return w, err
}

func (w *workload) balancer() string { return w.lb.Addr().String() }

// listen serves on an address of its own.
func (w *workload) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { _ = w.http.ServeTLS(l, filepath.Join(w.dir, "server.crt"), filepath.Join(w.dir, "server.key")) }()
	return l, nil
}

// nextMachine names a machine that none had before.
func (w *workload) nextMachine() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made++
	return fmt.Sprintf("%s-%d.%s", w.name, w.made, nodeDomain)
}

func (w *workload) addServer(node string, keys served) error {
	l, err := w.listen()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers = append(w.servers, &apiServer{
		node: node, address: fmt.Sprintf("10.0.%d.%d", w.made/250, 1+w.made%250), listener: l, keys: keys,
	})
	return nil
}

func (w *workload) removeServer(node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers = slices.DeleteFunc(w.servers, func(s *apiServer) bool {
		if s.node == node {
			_ = s.listener.Close()
		}
		return s.node == node
	})
}

// snapshot returns the API servers, and the one that a request has reached: the load balancer takes the first. It is nil
// if that is gone.
func (w *workload) snapshot(r *http.Request) (all []*apiServer, reached *apiServer) {
	at, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.servers {
		if reached == nil && at != nil && (at.String() == w.balancer() || at.String() == s.listener.Addr().String()) {
			reached = s
		}
	}
	return slices.Clone(w.servers), reached
}

func (w *workload) serve(out http.ResponseWriter, r *http.Request) {
	all, at := w.snapshot(r)
	if at == nil {
		http.Error(out, "it is gone", http.StatusServiceUnavailable)
		return
	}
	path := r.URL.Path
	resource, name, rest := split(path)
	switch {
	case path == "/readyz":
		_, _ = io.WriteString(out, "ok")
	case at.keys.answer(out, r, path):
	case rest == "portforward":
		forward(out, r, all, strings.TrimPrefix(name, "kube-apiserver-"))
	case r.Method == http.MethodGet && name == "":
		answer(out, list(resource, strings.Contains(path, "/namespaces/"+metav1.NamespaceSystem+"/"), all))
	case r.Method == http.MethodGet:
		w.read(out, r)
	case r.Method == http.MethodPost && name == "":
		w.create(out, r)
	case r.Method == http.MethodDelete:
		w.remove(out, r)
	default:
		http.NotFound(out, r)
	}
}

// split returns the resource of a path, the name of an object, and what follows that.
func split(path string) (resource, name, rest string) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case parts[0] == "api" && len(parts) > 2:
		parts = parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		parts = parts[3:]
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	parts = append(parts, "", "")
	return parts[0], parts[1], parts[2]
}

func (w *workload) read(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	o, ok := w.objects[r.URL.Path]
	w.mu.Unlock()
	if !ok {
		http.NotFound(out, r)
		return
	}
	out.Header().Set("Content-Type", o.contentType)
	_, _ = out.Write(o.body)
}

func (w *workload) create(out http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	decoded, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	named, err := meta.Accessor(decoded)
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	o := object{r.Header.Get("Content-Type"), body}
	w.mu.Lock()
	w.objects[r.URL.Path+"/"+named.GetName()] = o
	w.mu.Unlock()
	out.Header().Set("Content-Type", o.contentType)
	out.WriteHeader(http.StatusCreated)
	_, _ = out.Write(body)
}

func (w *workload) remove(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	_, ok := w.objects[r.URL.Path]
	delete(w.objects, r.URL.Path)
	w.mu.Unlock()
	if !ok {
		http.NotFound(out, r)
		return
	}
	answer(out, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
}

// list returns the objects of a resource: those that show the control plane. system means that only namespace
// kube-system is asked about; no other has pods.
func list(resource string, system bool, all []*apiServer) any {
	at := metav1.ListMeta{ResourceVersion: "1"}
	switch {
	case resource == "nodes":
		l := corev1.NodeList{TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}, ListMeta: at}
		for _, s := range all {
			l.Items = append(l.Items, s.nodeObject())
		}
		return l
	case resource == "pods" && system:
		l := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: at}
		for _, s := range all {
			l.Items = append(l.Items, s.mirrorPod())
		}
		return l
	case resource == "endpointslices":
		l := discoveryv1.EndpointSliceList{
			TypeMeta: metav1.TypeMeta{Kind: "EndpointSliceList", APIVersion: "discovery.k8s.io/v1"}, ListMeta: at,
		}
		endpoints := discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}}
		for _, s := range all {
			endpoints.Endpoints = append(endpoints.Endpoints, discoveryv1.Endpoint{Addresses: []string{s.address}})
		}
		l.Items = append(l.Items, endpoints)
		return l
	}
	return map[string]any{"kind": "List", "apiVersion": "v1", "metadata": at, "items": []int{}}
}

func (s *apiServer) nodeObject() corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.node, UID: types.UID(s.node), Labels: map[string]string{"node-role.kubernetes.io/control-plane": ""},
		},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: s.address}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

// mirrorPod returns the mirror pod of its static pod, as kubeadm makes it.
func (s *apiServer) mirrorPod() corev1.Pod {
	const name, keys = "kube-apiserver", "/etc/kubernetes/pki"
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: name + "-" + s.node, Labels: map[string]string{"component": name},
			Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "simulated"},
		},
		Spec: corev1.PodSpec{
			NodeName: s.node,
			Containers: []corev1.Container{{
				Name: name, Command: []string{
					name, "--advertise-address=" + s.address, "--secure-port=6443",
					"--service-account-issuer=" + v1alpha1.DefaultIssuer, "--service-account-key-file=" + keys + "/sa.pub",
					"--service-account-signing-key-file=" + keys + "/sa.key",
				},
				VolumeMounts: []corev1.VolumeMount{{Name: "keys", MountPath: keys}},
			}},
			Volumes: []corev1.Volume{{Name: "keys", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: keys},
			}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, HostIP: s.address, PodIP: s.address},
	}
}

// forward forwards a port of the mirror pod of a node, as kubelets do: SPDY in a websocket, a stream for a connection.
func forward(out http.ResponseWriter, r *http.Request, all []*apiServer, node string) {
	i := slices.IndexFunc(all, func(s *apiServer) bool { return s.node == node })
	if i < 0 {
		http.NotFound(out, r)
		return
	}
	tunnel := websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			c.Protocol = []string{portforward.WebsocketsSPDYTunnelingPrefix + portforward.PortForwardV1Name}
			return nil
		},
		Handler: func(conn *websocket.Conn) {
			conn.PayloadType = websocket.BinaryFrame
			c, err := spdy.NewServerConnection(conn, func(s httpstream.Stream, _ <-chan struct{}) error {
				if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeData {
					go connect(s, all[i].listener.Addr().String())
				}
				return nil
			})
			if err == nil {
				<-c.CloseChan()
			}
		},
	}
	tunnel.ServeHTTP(out, r)
}

// connect copies between a stream and an address until either ends.
func connect(s httpstream.Stream, address string) {
	defer func() { _ = s.Reset() }()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer conn.Close()
	go func() {
		defer conn.Close()
		_, _ = io.Copy(conn, s)
	}()
	_, _ = io.Copy(s, conn)
}
