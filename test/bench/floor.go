package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/token"
)

// constantCommand is the argument by which this program is no benchmark but a constant on the socket that follows. With
// the file of a private key after that, it makes a signature before each answer.
const constantCommand = "constant"

// constant is a signer that signs nothing: what it costs is the least that any signer costs over a socket.
type constant struct {
	externaljwt.UnimplementedExternalJWTSignerServer
	// key signs what nobody gets; nil: nothing is signed.
	key crypto.Signer
}

func (constant) FetchKeys(context.Context, *externaljwt.FetchKeysRequest) (*externaljwt.FetchKeysResponse, error) {
	return &externaljwt.FetchKeysResponse{}, nil
}

// Sign answers with as many bytes as an ES256 signature, and its header, have.
func (c constant) Sign(_ context.Context, r *externaljwt.SignJWTRequest) (*externaljwt.SignJWTResponse, error) {
	if c.key == nil {
		return constantAnswer, nil
	}
	return constantAnswer, signBare(c.key, constantAnswer.GetHeader()+"."+r.GetClaims())
}

// signBare makes the signature of a message, and no more.
func signBare(key crypto.Signer, message string) error {
	digest := sha256.Sum256([]byte(message))
	_, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	return err
}

var constantAnswer = &externaljwt.SignJWTResponse{
	Header: fmt.Sprintf("%0107d", 0), Signature: fmt.Sprintf("%086d", 0),
}

// serveConstant serves a constant until ctx ends, with the options of package signer that cost or save time.
func serveConstant(ctx context.Context, path, keyFile string) error {
	var c constant
	if keyFile != "" {
		data, err := os.ReadFile(keyFile)
		if err != nil {
			return err
		}
		if c.key, err = token.ParsePrivateKey(data); err != nil {
			return err
		}
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

// startBare starts a constant that signs with a key.
func (p *place) startBare(ctx context.Context, dir string, key crypto.Signer) (*served, error) {
	private, err := token.MarshalPrivateKey(key)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "bare.pem")
	if err := os.WriteFile(file, private, 0o600); err != nil {
		return nil, err
	}
	return runConstant(ctx, filepath.Join(dir, "bare", "socket"), file)
}

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
