package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/socket"
)

// constantCommand is the argument by which this program is no benchmark but a constant on the socket that follows.
const constantCommand = "constant"

// constant is a signer that signs nothing: what it costs is the least that any signer costs over a socket.
type constant struct {
	externaljwt.UnimplementedExternalJWTSignerServer
}

func (constant) FetchKeys(context.Context, *externaljwt.FetchKeysRequest) (*externaljwt.FetchKeysResponse, error) {
	return &externaljwt.FetchKeysResponse{}, nil
}

// Sign answers with as many bytes as an ES256 signature, and its header, have.
func (constant) Sign(context.Context, *externaljwt.SignJWTRequest) (*externaljwt.SignJWTResponse, error) {
	return constantAnswer, nil
}

var constantAnswer = &externaljwt.SignJWTResponse{
	Header: fmt.Sprintf("%0107d", 0), Signature: fmt.Sprintf("%086d", 0),
}

// serveConstant serves a constant until ctx ends, with the options of package signer that cost or save time.
func serveConstant(ctx context.Context, path string) error {
	l, err := socket.Listen(path)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true), grpc.NumStreamWorkers(8))
	externaljwt.RegisterExternalJWTSignerServer(server, constant{})
	defer context.AfterFunc(ctx, server.Stop)()
	return server.Serve(l)
}

// startConstant starts a constant, as startSigner does the program.
func (p *place) startConstant(ctx context.Context, dir string) (*served, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "constant", "socket")
	return serveOn(ctx, path, exec.CommandContext(ctx, self, constantCommand, path))
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
