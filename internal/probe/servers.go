package probe

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typeddiscoveryv1 "k8s.io/client-go/kubernetes/typed/discovery/v1"
)

// linger is how long an API server is still used after it left the list, since one that restarts leaves it for a while.
const linger = time.Minute

// directory lists the API servers of the cluster, each by its own URL.
type directory struct {
	// slices are the EndpointSlices of the namespace default; nil if the list is fixed.
	slices typeddiscoveryv1.EndpointSliceInterface
	seen   map[string]time.Time
}

// fixedDirectory always returns these API servers, given by their https URLs.
func fixedDirectory(servers []string) (*directory, error) {
	d := &directory{seen: map[string]time.Time{}}
	for _, s := range servers {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("API server %q is not a URL like https://10.0.0.11:6443", s)
		}
		d.seen["https://"+u.Host] = time.Time{}
	}
	return d, nil
}

// list returns the API servers. If the cluster cannot be asked, it returns the last known ones, and an error that says
// why.
func (d *directory) list(ctx context.Context, now time.Time) ([]string, error) {
	var err error
	if d.slices != nil {
		err = d.refresh(ctx, now)
	}
	return slices.Sorted(maps.Keys(d.seen)), err
}

func (d *directory) refresh(ctx context.Context, now time.Time) error {
	list, err := d.slices.List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
	if err != nil {
		return fmt.Errorf("listing the API servers: %w", err)
	}
	listed := addresses(list.Items)
	if len(listed) == 0 {
		return nil
	}
	for _, server := range listed {
		d.seen[server] = now
	}
	maps.DeleteFunc(d.seen, func(_ string, last time.Time) bool { return now.Sub(last) > linger })
	return nil
}

// addresses returns the URLs of the endpoints of port https.
func addresses(list []discoveryv1.EndpointSlice) []string {
	var out []string
	for _, slice := range list {
		for _, port := range slice.Ports {
			if port.Port == nil || port.Name == nil || *port.Name != "https" {
				continue
			}
			for _, endpoint := range slice.Endpoints {
				for _, address := range endpoint.Addresses {
					out = append(out, "https://"+net.JoinHostPort(address, strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	return out
}
