package controllercmd

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/fleet/discovery/bucketurl"
	"github.com/keyturn/keyturn/internal/fleet/gkehub"
	"github.com/keyturn/keyturn/internal/printable"
)

// allowed is what UserClusters may make the controller connect to, write to, and show its credentials to. The author of
// a UserCluster chooses within these bounds, which the administrator of the controller sets. The zero value allows only
// Google's own endpoints, with the cluster's own credentials.
type allowed struct {
	// fleetEndpoints are URLs that gkeConnect may name in addition to those of Google Cloud.
	fleetEndpoints []string
	// publish are the buckets and directories within which keys may be published.
	publish []*url.URL
	// defaultCredentials allows registering a cluster with Google Cloud with the credentials of the controller.
	defaultCredentials bool
}

const (
	fleetEndpointFlag      = "allow-fleet-endpoint"
	publishFlag            = "allow-publish"
	defaultCredentialsFlag = "allow-default-credentials"
)

// addFlags adds the flags that set what is allowed.
func (a *allowed) addFlags(set *flag.FlagSet) {
	set.Func(fleetEndpointFlag,
		"https `URL` that gkeConnect of a UserCluster may name in addition to those of Google Cloud; "+
			"can be repeated", a.addEndpoint)
	set.Func(publishFlag,
		"`URL` of a bucket or directory, perhaps with ?prefix=, within which UserClusters may publish their keys; "+
			"can be repeated", a.addPublish)
	set.BoolVar(&a.defaultCredentials, defaultCredentialsFlag, false,
		"let UserClusters that name no credentials be registered with Google Cloud with those of the controller")
}

func (a *allowed) addEndpoint(value string) error {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("must be a URL like https://fleet.example.com")
	}
	a.fleetEndpoints = append(a.fleetEndpoints, strings.TrimRight(value, "/"))
	return nil
}

func (a *allowed) addPublish(value string) error {
	u, err := bucketurl.Parse(value)
	if err == nil {
		a.publish = append(a.publish, u)
	}
	return err
}

// errNotAllowed is the error for everything that a UserCluster names but may not use.
var errNotAllowed = errors.New("not allowed")

// notAllowed returns the error about a field of a UserCluster.
func notAllowed(field, value, name string) error {
	return fmt.Errorf("%w: %s %q; nothing is sent there: name another, or ask the administrator of keyturn-controller to "+
		"allow it with --%s", errNotAllowed, field, printable.Line(value), name)
}

// checkFleet refuses a fleet that a UserCluster may not name, or not with these credentials: the key file of its
// Secret, or nil.
func (a *allowed) checkFleet(connect *v1alpha1.GKEConnect, keyFile []byte) error {
	for _, e := range []struct{ field, value, google string }{
		{"gkeConnect.endpoint", connect.Endpoint, gkehub.DefaultEndpoint},
		{"gkeConnect.stsEndpoint", connect.STSEndpoint, gkehub.DefaultSTSEndpoint},
	} {
		value := strings.TrimRight(e.value, "/")
		if value != "" && value != e.google && !slices.Contains(a.fleetEndpoints, value) {
			return notAllowed(e.field, e.value, fleetEndpointFlag)
		}
	}
	if len(keyFile) > 0 {
		return a.checkTokenURI(keyFile)
	}
	if endpoint := strings.TrimRight(connect.Endpoint, "/"); endpoint != "" && endpoint != gkehub.DefaultEndpoint {
		return fmt.Errorf("%w: gkeConnect.credentialsSecret is empty, and the credentials of the controller are not shown "+
			"to %q: name a Secret with a service account key", errNotAllowed, printable.Line(connect.Endpoint))
	}
	if !a.defaultCredentials {
		return fmt.Errorf("%w: gkeConnect.credentialsSecret is empty, and the credentials of the controller are not used: "+
			"name a Secret with a service account key, or ask the administrator of keyturn-controller to allow it "+
			"with --%s", errNotAllowed, defaultCredentialsFlag)
	}
	return nil
}

// googleTokens are the hosts that issue access tokens to service accounts of Google Cloud.
var googleTokens = []string{"oauth2.googleapis.com", "accounts.google.com", "www.googleapis.com"}

// checkTokenURI refuses a key file that makes the controller connect to any other host. A key file that cannot be read
// names none.
func (a *allowed) checkTokenURI(keyFile []byte) error {
	var file struct {
		TokenURI string `json:"token_uri"`
	}
	if err := json.Unmarshal(keyFile, &file); err != nil || file.TokenURI == "" {
		return nil //nolint:nilerr // package gkehub refuses it
	}
	u, err := url.Parse(file.TokenURI)
	if err == nil && u.Scheme == "https" && slices.Contains(googleTokens, u.Host) && u.User == nil {
		return nil
	}
	within := func(endpoint string) bool { return strings.HasPrefix(file.TokenURI, endpoint+"/") }
	if slices.ContainsFunc(a.fleetEndpoints, within) {
		return nil
	}
	return notAllowed("token_uri of the service account key", file.TokenURI, fleetEndpointFlag)
}

// checkPublish refuses a URL of ksaSigningKey.publish that is invalid or that a UserCluster may not name.
func (a *allowed) checkPublish(field, value string) error {
	u, err := bucketurl.Parse(value)
	if err != nil {
		return fmt.Errorf("%w: %s %w; remove it from the spec", errNotAllowed, field, err) // the value may hold a secret
	}
	if !slices.ContainsFunc(a.publish, func(bound *url.URL) bool { return bucketurl.Within(u, bound) }) {
		return notAllowed(field, value, publishFlag)
	}
	return nil
}
