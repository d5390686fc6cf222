package probe

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
)

// identityTokenFile is the path of the workload identity token in the pods of Manifests.
const identityTokenFile = "/var/run/secrets/keyturn-probe/workload-identity/token"

// WorkloadIdentityDeployment describes the fleet membership that gives the pods a workload identity, and where they use
// it.
type WorkloadIdentityDeployment struct {
	// ProjectID, Location and Membership name the cluster's membership.
	ProjectID, Location, Membership string
	// STSEndpoint is the https URL of the security token service, without a path, such as https://sts.googleapis.com.
	STSEndpoint string
	// Resource is the resource in workloadIdentityOptions.
	Resource string
	// CABundle holds the PEM certificates that verify the STS and the resource.
	CABundle string
}

// The names of projects and locations. Older projects have a domain name before their own.
var (
	projectPattern  = regexp.MustCompile(`^[a-z0-9][-a-z0-9.:]{0,61}[a-z0-9]$`)
	locationPattern = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

func (w *WorkloadIdentityDeployment) validate() error {
	switch {
	case !projectPattern.MatchString(w.ProjectID):
		return fmt.Errorf("project %q of the workload identity is not a project ID", w.ProjectID)
	case !locationPattern.MatchString(w.Location):
		return fmt.Errorf("location %q of the workload identity is not like us-central1 or global", w.Location)
	case len(content.IsDNS1123Label(w.Membership)) > 0:
		return fmt.Errorf("membership %q of the workload identity is not a DNS label", w.Membership)
	}
	if u, ok := httpsURL(w.STSEndpoint); !ok || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery {
		return fmt.Errorf("security token service %q is not a URL like https://sts.googleapis.com", w.STSEndpoint)
	}
	if _, ok := httpsURL(w.Resource); !ok {
		return fmt.Errorf("resource %q of the workload identity is not an https URL", w.Resource)
	}
	_, err := w.Certificates()
	return err
}

// Pool returns the workload identity pool of the project: the audience of the pods' tokens.
func (w *WorkloadIdentityDeployment) Pool() string { return w.ProjectID + ".svc.id.goog" }

// Credentials returns the credentials file of the pods.
func (w *WorkloadIdentityDeployment) Credentials() (string, error) {
	out, err := json.MarshalIndent(credentials{
		Type:           "external_account",
		UniverseDomain: "googleapis.com",
		Audience: fmt.Sprintf("identitynamespace:%s:https://gkehub.googleapis.com/projects/%s/locations/%s/memberships/%s",
			w.Pool(), w.ProjectID, w.Location, w.Membership),
		SubjectTokenType: "urn:ietf:params:oauth:token-type:jwt",
		TokenURL:         strings.TrimRight(w.STSEndpoint, "/") + "/v1/token",
		Source:           credentialSource{File: identityTokenFile},
	}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encoding the credentials of the workload identity: %w", err)
	}
	return string(out), nil
}

// Certificates returns only the certificates of CABundle. Other PEM blocks, such as a private key, are an error;
// comments are dropped.
func (w *WorkloadIdentityDeployment) Certificates() (string, error) {
	var out strings.Builder
	blocks := 0
	for rest := []byte(w.CABundle); ; blocks++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("CA certificates of the workload identity: they hold a %q", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("CA certificates of the workload identity: reading certificate %d: %w", blocks+1, err)
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
	if blocks == 0 || blocks != strings.Count(w.CABundle, "-----BEGIN") {
		return "", errors.New("CA certificates of the workload identity: they are not all PEM certificates")
	}
	return out.String(), nil
}
