// Package vectors holds tokens, key sets and discovery documents, each with what a strict reader must make of it.
//
// They are JSON files, so that other implementations can run them too; README.md describes their members. This
// package only gives them to Go tests. The file kubernetes.json was recorded from a real API server; the others are
// written by this package's own test, which also checks that they are as it would write them:
//
//	go test ./test/vectors -update
//
// The private keys among them are known to everyone who can read this. Nothing but a test may ever use them.
package vectors

import (
	"embed"
	"encoding/json"
	"fmt"
	"time"
)

//go:embed *.json
var files embed.FS

// Key is a key pair that the vectors are signed with.
type Key struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	// KeyID is the kid as kube-apiserver computes it.
	KeyID string `json:"kid"`
	// Private is PEM in PKCS #8 form.
	Private string `json:"private_test_only"`
	// Public is PEM in PKIX form.
	Public string `json:"public"`
}

// Token is a token with what verifying it must result in.
type Token struct {
	Name    string `json:"name"`
	Comment string `json:"comment,omitempty"`
	Token   string `json:"token"`
	// Keys are the names of the verification keys.
	Keys          []string  `json:"keys"`
	Issuer        string    `json:"issuer"`
	Audience      string    `json:"audience,omitempty"`
	Now           time.Time `json:"now"`
	LeewaySeconds int       `json:"leeway_seconds,omitempty"`
	// Failure is the class of failure; empty if the token is good.
	Failure string `json:"failure,omitempty"`
	// KeyID is the kid that the header gives, also where the rest is bad.
	KeyID string `json:"kid,omitempty"`
	// Claims is the payload of a good token in the form that kube-apiserver gives it.
	Claims string `json:"claims,omitempty"`
}

// Document is a key set or a discovery document with what reading it must result in.
type Document struct {
	Name    string `json:"name"`
	Comment string `json:"comment,omitempty"`
	// Document is a string because it need not be JSON.
	Document string `json:"document"`
	// Failure is the class of failure; empty if the document is good.
	Failure string `json:"failure,omitempty"`
	// KeyIDs are the kids of a good key set, in order.
	KeyIDs []string `json:"kids,omitempty"`
}

// Recording is what one API server and its kube-controller-manager answered.
type Recording struct {
	// Version is the version of Kubernetes.
	Version string `json:"version"`
	// SigningKey is the name of the key that both signed with. The server verified with every key of keys.json.
	SigningKey string `json:"signing_key"`
	// Issuer is its --service-account-issuer, and the audience of a token that asks for none.
	Issuer    string          `json:"issuer"`
	JWKS      string          `json:"jwks"`
	Discovery string          `json:"discovery"`
	Tokens    []RecordedToken `json:"tokens"`
}

// RecordedToken is one token of a Recording.
type RecordedToken struct {
	Name  string `json:"name"`
	Token string `json:"token"`
}

// Keys returns the key pairs.
func Keys() []Key { return load[keyFile]("keys.json").Keys }

// Tokens returns the vectors of tokens.
func Tokens() []Token { return load[[]Token]("tokens.json") }

// Sets returns the vectors of JSON Web Key Sets. Those of a single JSON Web Key are sets of one.
func Sets() []Document { return load[[]Document]("jwks.json") }

// Discoveries returns the vectors of discovery documents.
func Discoveries() []Document { return load[[]Document]("discovery.json") }

// Recordings returns what real API servers answered, one recording for each algorithm.
func Recordings() []Recording { return load[[]Recording]("kubernetes.json") }

type keyFile struct {
	Warning string `json:"warning"`
	Keys    []Key  `json:"keys"`
}

// load panics when a file that was compiled in is not what its own test wrote.
func load[T any](name string) T {
	var v T
	data, err := files.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		panic(fmt.Sprintf("reading test vectors %s: %v", name, err))
	}
	return v
}
