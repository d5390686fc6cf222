package adoption

import (
	"crypto/rsa"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/config"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/internal/printable"
	"github.com/keyturn/keyturn/jwks"
)

// oldest and newest are the versions of Kubernetes that Keyturn was tested with on kubeadm clusters.
var oldest, newest = version.MustParseGeneric("1.34.0"), version.MustParseGeneric("1.36.0")

// maxRSABits is the size of the largest RSA key that kubeadm makes.
const maxRSABits = 4096

// conclude compares the servers that were found with their answers.
func conclude(as v1alpha1.Infrastructure, found kubeadm.Found, answers []answer) Report {
	r := Report{
		Servers: []Server{}, ForeignKeyIDs: []string{}, Problems: []string{}, Warnings: []string{}, as: as,
	}
	for _, p := range found.Problems {
		r.problem("%s", p)
	}
	for i, s := range found.Servers {
		r.server(s, answers[i])
	}
	r.agree(found.Servers, answers)
	slices.Sort(r.ForeignKeyIDs)
	r.ForeignKeyIDs = slices.Compact(r.ForeignKeyIDs)
	if n := len(r.ForeignKeyIDs); n > 0 {
		r.warn("API servers accept %d more keys: Keyturn keeps them, and the first rotation waits at its end until you "+
			"release them; with ksaSigningKey.source external, API servers get no signer before that", n)
	}
	return r
}

func (r *Report) problem(format string, args ...any) { add(&r.Problems, format, args...) }

func (r *Report) warn(format string, args ...any) { add(&r.Warnings, format, args...) }

// add adds a line once. The line may quote the cluster.
func add(lines *[]string, format string, args ...any) {
	if line := printable.Line(fmt.Sprintf(format, args...)); !slices.Contains(*lines, line) {
		*lines = append(*lines, line)
	}
}

// server adds one API server and its problems.
func (r *Report) server(s kubeadm.Server, a answer) {
	own := Server{Node: s.Node, Address: s.Address, AcceptedKeyIDs: []string{}}
	defer func() { r.Servers = append(r.Servers, own) }()
	if s.Leaving {
		r.warn("the node %s of an API server is being deleted: this API server does not count", s.Node)
		return
	}
	switch {
	case s.Unlabelled:
		r.problem("%s", s.Waiting)
		return
	case s.Waiting != "":
		r.problem("%s: start kube-apiserver there, or delete the node", s.Waiting)
		return
	case s.NoSigner != "":
		add(&r.noSigner, "%s", s.NoSigner)
	}
	if why := s.Unwritable(r.as); why != "" && s.SignerSocket == "" { // no signer is adopted: see below
		r.problem("%s", why)
	}
	if a.err != nil {
		r.problem("the API server on node %s does not answer through a forwarded port of its pod: %v", s.Node, a.err)
		return
	}
	own.Version, own.SigningKeyID = printable.Line(a.version), printable.Line(a.kid)
	for _, k := range a.keys.Keys() {
		own.AcceptedKeyIDs = append(own.AcceptedKeyIDs, printable.Line(k.KeyID))
	}
	if s.SignerSocket != "" {
		r.problem("the API server on node %s signs with the signer at %s: Keyturn adopts API servers that sign with files; "+
			"set their flags back first", s.Node, s.SignerSocket)
	}
	if a.others > 0 {
		r.problem("the API server on node %s accepts %d keys that are neither RSA of at least %d bits nor on P-256 or "+
			"P-384: remove them from its --service-account-key-file", s.Node, a.others, jwks.MinRSABits)
	}
	for _, node := range a.refuses {
		r.problem("the API server on node %s refuses the tokens that the one on node %s signs: give both the same sa.pub",
			s.Node, node)
	}
	r.version(a.version)
}

// version compares the version of an API server with the versions that Keyturn was tested with.
func (r *Report) version(text string) {
	v, err := version.ParseGeneric(text)
	switch {
	case err != nil:
		r.problem("an API server reports the invalid version %q", text)
	case v.LessThan(oldest):
		r.problem("an API server has version %s: upgrade the cluster to %d.%d or later first", text, oldest.Major(),
			oldest.Minor())
	case v.Minor() > newest.Minor():
		r.warn("an API server has version %s: Keyturn was tested up to %d.%d", text, newest.Major(), newest.Minor())
	}
}

// agree reports differences between the API servers that answered, and records what they agree on.
func (r *Report) agree(servers []kubeadm.Server, answers []answer) {
	first := slices.IndexFunc(answers, func(a answer) bool { return a.err == nil })
	if first < 0 {
		return
	}
	f, before := answers[first], len(r.Problems)
	for i, a := range answers {
		if a.err == nil && a.kid != f.kid {
			r.problem("the API servers on nodes %s and %s sign with different keys (%s and %s): let all of them sign with one, "+
				"and accept both until then", servers[first].Node, servers[i].Node, f.kid, a.kid)
		}
		if a.err == nil && a.issuer != f.issuer {
			r.problem("the API servers on nodes %s and %s have the issuers %s and %s: give them the same "+
				"--service-account-issuer", servers[first].Node, servers[i].Node, f.issuer, a.issuer)
		}
		if a.err == nil && a.version != f.version {
			r.warn("the API servers on nodes %s and %s are of versions %s and %s: finish the upgrade before you rotate keys",
				servers[first].Node, servers[i].Node, f.version, a.version)
		}
		for _, k := range a.keys.Keys() {
			if k.KeyID != f.kid {
				r.ForeignKeyIDs = append(r.ForeignKeyIDs, printable.Line(k.KeyID))
			}
		}
	}
	if len(r.Problems) > before {
		return
	}
	r.issuer(f.issuer)
	r.signingKey(f)
}

func (r *Report) issuer(issuer string) {
	if err := config.CheckIssuer(issuer); err != nil {
		r.problem("the issuer %s %v: Keyturn cannot rotate the keys of a cluster with this issuer", issuer, err)
		return
	}
	r.Issuer = issuer
}

// signingKey records the key that all API servers sign with.
func (r *Report) signingKey(a answer) {
	k, ok := a.keys.Lookup(a.kid)
	if !ok {
		r.problem("the API servers sign with key %s, which is neither RSA of at least %d bits nor on P-256 or P-384: "+
			"give them another one first", a.kid, jwks.MinRSABits)
		return
	}
	if public, ok := k.Public.(*rsa.PublicKey); ok && public.N.BitLen() > maxRSABits {
		r.problem("the API servers sign with an RSA key of %d bits: Keyturn takes keys of up to %d", public.N.BitLen(),
			maxRSABits)
		return
	}
	r.SigningKeyID, r.Algorithm = k.KeyID, k.Algorithm
}

// Ready reports whether the cluster can be adopted.
func (r Report) Ready() bool { return len(r.Problems) == 0 }

// CompareSource adds why API servers cannot have a signer: as problems if they are to have one, and else as warnings.
func (r *Report) CompareSource(external bool) {
	for _, why := range r.noSigner {
		if external {
			r.problem("%s: use ksaSigningKey.source files, or change that first", why)
		} else {
			r.warn("%s: ksaSigningKey.source external is not possible before you change that", why)
		}
	}
}

// CompareIssuer adds a problem if a configuration file names an issuer that is not the cluster's.
func (r *Report) CompareIssuer(named string) {
	if named != "" && r.Issuer != "" && named != r.Issuer {
		r.problem("ksaSigningKey.issuer is %s, but the cluster's issuer is %s: use that, or omit the field",
			named, r.Issuer)
	}
}
