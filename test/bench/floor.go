package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// constantCommand is the argument by which this program is no benchmark but a constant on the socket that follows. With
// the file of a private key after that, it makes a signature before each answer.
const constantCommand = "constant"

// constant is a signer that answers the same signature each time: what it costs is the least that any signer costs over
// a socket.
type constant struct {
	externaljwt.UnimplementedExternalJWTSignerServer
	// key signs what nobody gets; nil: nothing is signed.
	key    crypto.Signer
	keys   *externaljwt.FetchKeysResponse
	answer *externaljwt.SignJWTResponse
}

// newConstant returns a constant whose answers are as long as those of a signer with this key, and pass for them at an
// API server, which does not verify signatures that it asked for.
func newConstant(key crypto.Signer, signs bool) (*constant, error) {
	public, err := jwks.NewKey(key.Public())
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	header, err := json.Marshal(map[string]string{"alg": public.Algorithm, "kid": public.KeyID, "typ": "JWT"})
	if err != nil {
		return nil, err
	}
	size := 64 // of an ES256 signature
	if rsaKey, ok := key.Public().(*rsa.PublicKey); ok {
		size = rsaKey.Size()
	}
	c := &constant{
		keys: &externaljwt.FetchKeysResponse{
			Keys: []*externaljwt.Key{{KeyId: public.KeyID, Key: der}}, DataTimestamp: timestamppb.Now(), RefreshHintSeconds: 3600,
		},
		answer: &externaljwt.SignJWTResponse{
			Header: base64.RawURLEncoding.EncodeToString(header), Signature: base64.RawURLEncoding.EncodeToString(make([]byte, size)),
		},
	}
	if signs {
		c.key = key
	}
	return c, nil
}

// FetchKeys returns the one key.
func (c *constant) FetchKeys(context.Context, *externaljwt.FetchKeysRequest) (*externaljwt.FetchKeysResponse, error) {
	return c.keys, nil
}

// Metadata allows tokens of a day.
func (*constant) Metadata(context.Context, *externaljwt.MetadataRequest) (*externaljwt.MetadataResponse, error) {
	return &externaljwt.MetadataResponse{MaxTokenExpirationSeconds: 86400}, nil
}

// Sign answers the same each time.
func (c *constant) Sign(_ context.Context, r *externaljwt.SignJWTRequest) (*externaljwt.SignJWTResponse, error) {
	if c.key == nil {
		return c.answer, nil
	}
	return c.answer, signBare(c.key, c.answer.GetHeader()+"."+r.GetClaims())
}

// signBare makes the signature of a message, and no more.
func signBare(key crypto.Signer, message string) error {
	digest := sha256.Sum256([]byte(message))
	_, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	return err
}

// loadConstant returns a constant that signs with the key of a file; without one, a constant that does not sign.
func loadConstant(keyFile string) (*constant, error) {
	if keyFile == "" {
		key, err := token.GenerateKey(rand.Reader, jwks.ES256)
		if err != nil {
			return nil, err
		}
		return newConstant(key, false)
	}
	data, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	key, err := token.ParsePrivateKey(data)
	if err != nil {
		return nil, err
	}
	return newConstant(key, true)
}

// serveConstant serves a constant until ctx ends, with the options of package signer that cost or save time.
func serveConstant(ctx context.Context, path, keyFile string) error {
	c, err := loadConstant(keyFile)
	if err != nil {
		return err
	}
	l, err := socket.Listen(path)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true), grpc.NumStreamWorkers(32))
	externaljwt.RegisterExternalJWTSignerServer(server, c)
	defer context.AfterFunc(ctx, server.Stop)()
	return server.Serve(l)
}

// startConstant starts a constant, as startSigner does the program.
func (p *place) startConstant(ctx context.Context, dir string) (*served, error) {
	return runConstant(ctx, filepath.Join(dir, "constant", "socket"))
}

// startBare starts a constant that signs with a key, at barePath.
func (p *place) startBare(ctx context.Context, dir string, key crypto.Signer) (*served, error) {
	private, err := token.MarshalPrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(bareKeyFile(dir), private, 0o600); err != nil {
		return nil, err
	}
	return runConstant(ctx, barePath(dir), bareKeyFile(dir))
}

// barePath is the socket of a constant that signs, and bareKeyFile the file of its private key.
func barePath(dir string) string    { return filepath.Join(dir, "bare", "socket") }
func bareKeyFile(dir string) string { return filepath.Join(dir, "bare.pem") }

func runConstant(ctx context.Context, path string, args ...string) (*served, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return serveOn(ctx, path, exec.CommandContext(ctx, self, append([]string{constantCommand, path}, args...)...))
}

// child returns the only child of a process, whichever of its threads started it.
func (p process) child() (process, error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.pid))
	if err != nil {
		return process{}, err
	}
	var pids []string
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return process{}, err
		}
		pids = append(pids, strings.Fields(string(data))...)
	}
	if len(pids) != 1 {
		return process{}, fmt.Errorf("finding the child of process %d: it has %q", p.pid, pids)
	}
	pid, err := strconv.Atoi(pids[0])
	return process{pid: pid}, err
}
