package probe

import (
	_ "embed"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"k8s.io/apimachinery/pkg/api/validate/content"
)

// defaultImage is the name of the image of cmd/keyturn-probe in the containerd of local clusters.
const defaultImage = "localhost/keyturn/probe:dev"

//go:embed manifests.yaml
var manifestsYAML string

var manifestsTemplate = template.Must(template.New("manifests").
	Funcs(template.FuncMap{"indent": indent}).Parse(manifestsYAML))

// indent indents the lines of a text to be in a YAML block, by four columns.
func indent(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") }

// Deployment describes the pods of Manifests.
type Deployment struct {
	Namespace, Image string
	// Replicas is the number of pods. A PodDisruptionBudget allows one disruption at a time.
	Replicas int
	// Rate is the rate in options.
	Rate float64
	// Servers are the https URLs of the individual API servers. If empty, the pods use those of the service kubernetes,
	// which may be a load balancer.
	Servers []string
	// Workloads are further pods, one of each, which get their tokens in other ways.
	Workloads []Workload
	// WorkloadIdentity gives the pods a workload identity; nil: they have none.
	WorkloadIdentity *WorkloadIdentityDeployment
}

// DefaultDeployment returns two pods in a separate namespace.
func DefaultDeployment() Deployment {
	return Deployment{Namespace: "keyturn-probe", Image: defaultImage, Replicas: 2, Rate: defaults().Rate}
}

// ServerList returns Servers as a flag value.
func (d Deployment) ServerList() string { return strings.Join(d.Servers, ",") }

// MinAvailable returns how many pods must stay up.
func (d Deployment) MinAvailable() int { return max(0, d.Replicas-1) }

// Manifests writes all objects that a cluster needs to run the pods, as YAML.
func Manifests(w io.Writer, d Deployment) error {
	if err := d.validate(); err != nil {
		return err
	}
	if err := manifestsTemplate.Execute(w, d); err != nil {
		return fmt.Errorf("writing the manifests: %w", err)
	}
	for _, workload := range d.Workloads {
		if err := d.writeWorkload(w, workload); err != nil {
			return fmt.Errorf("writing the manifest of workload %s: %w", workload, err)
		}
	}
	return nil
}

func (d Deployment) validate() error {
	switch {
	case d.Replicas < 1:
		return fmt.Errorf("%d replicas: there must be at least one", d.Replicas)
	case d.Rate <= 0:
		return fmt.Errorf("rate %v is not above zero", d.Rate)
	case len(content.IsDNS1123Label(d.Namespace)) > 0:
		return fmt.Errorf("namespace %q is not a DNS label", d.Namespace)
	case d.Image == "" || strings.ContainsAny(d.Image, " \t\n\"'{}#"):
		return fmt.Errorf("image %q is not an image name", d.Image)
	}
	for _, server := range d.Servers {
		if _, ok := httpsURL(server); !ok {
			return fmt.Errorf("API server %q is not an https URL", server)
		}
	}
	for _, w := range d.Workloads {
		if !slices.Contains(Workloads(), w) {
			return fmt.Errorf("workload %q is none of %v", w, Workloads())
		}
	}
	if d.WorkloadIdentity != nil {
		return d.WorkloadIdentity.validate()
	}
	return nil
}

// urlPattern allows no character with a meaning in quoted YAML, in a list of a flag, or for Kubernetes, which expands
// $(NAME) in arguments.
var urlPattern = regexp.MustCompile(`^https://[-A-Za-z0-9._~:/?@!&*+;=%\[\]]+$`)

// httpsURL parses a URL that may be used in a manifest.
func httpsURL(raw string) (*url.URL, bool) {
	if !urlPattern.MatchString(raw) {
		return nil, false
	}
	u, err := url.Parse(raw)
	return u, err == nil && u.Hostname() != "" && u.User == nil
}
