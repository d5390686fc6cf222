package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/signer"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

const (
	signClients = 16
	signRounds  = 20
	signTime    = 500 * time.Millisecond
	// signerStart is how long the program may take until it serves.
	signerStart = 10 * time.Second
)

// podClaims are of the size of those of a pod's token.
const podClaims = `{"aud":["https://kubernetes.default.svc.cluster.local"],"exp":1831536000,"iat":1800000000,"iss":"https://kubernetes.default.svc.cluster.local",` +
	`"jti":"0f6f3f3b-2a06-4d5a-a6b6-6c3f4d10a0b0","kubernetes.io":{"namespace":"default","node":{"name":"node-1","uid":"3b2a06d5-6c3f-4d10-a0b0-a0f6f3f3b2a0"},` +
	`"pod":{"name":"web-5d78c9869d-2xk7q","uid":"4d10a0b0-6c3f-4d10-a0b0-a0f6f3f3b2a0"},"serviceaccount":{"name":"web","uid":"a0f6f3f3-6c3f-4d10-a0b0-a0f6f3f3b2a0"},` +
	`"warnafter":1800003607},"nbf":1800000000,"sub":"system:serviceaccount:default:web"}`

// Signatures compares the signer's Sign with the bare signature of the same bytes, hashing included.
type Signatures struct {
	Algorithm v1alpha1.Algorithm `json:"algorithm"`
	// Sign is Sign in this process, Bare the private key alone, Socket Sign of the program, and Floor Sign of a program
	// that answers a constant, and SigningFloor that of one that makes the signature before it does. The n-th of each make
	// a round.
	Sign         []Rate `json:"sign"`
	Bare         []Rate `json:"bare"`
	Socket       []Rate `json:"socket"`
	Floor        []Rate `json:"floor"`
	SigningFloor []Rate `json:"signingFloor"`
}

// Rate is how often something was done in a second, and in a second of processor time of those who have a part in it,
// which other processes on the machine hardly change.
type Rate struct {
	PerSecond    float64 `json:"perSecond"`
	PerCPUSecond float64 `json:"perCPUSecond"`
}

// measureSignatures signs without any cluster.
func measureSignatures(ctx context.Context, p *place, r *Results) error {
	for _, algorithm := range algorithms {
		p.say("signing, %s, %d rounds", algorithm, signRounds)
		s, err := p.compareSignatures(ctx, algorithm)
		if err != nil {
			return fmt.Errorf("%s: %w", algorithm, err)
		}
		r.Signatures = append(r.Signatures, s)
	}
	return nil
}

func (p *place) compareSignatures(ctx context.Context, algorithm v1alpha1.Algorithm) (Signatures, error) {
	s := Signatures{Algorithm: algorithm}
	dir := filepath.Join(p.dir, string(algorithm))
	key, err := writeKey(dir, algorithm)
	if err != nil {
		return s, err
	}
	inside, err := newSigner(ctx, dir, "")
	if err != nil {
		return s, err
	}
	program, err := p.startSigner(ctx, dir)
	if err != nil {
		return s, err
	}
	defer program.end()
	floor, err := p.startConstant(ctx, dir)
	if err != nil {
		return s, err
	}
	defer floor.end()
	signingFloor, err := p.startBare(ctx, dir, key)
	if err != nil {
		return s, err
	}
	defer signingFloor.end()
	request := &externaljwt.SignJWTRequest{Claims: base64.RawURLEncoding.EncodeToString([]byte(podClaims))}
	signed, err := inside.Sign(ctx, request)
	if err != nil {
		return s, err
	}
	message := signed.GetHeader() + "." + request.GetClaims()
	bare := func() error { return signBare(key, message) }
	sign := func() error { _, err := inside.Sign(ctx, request); return err }
	socket := func() error { _, err := program.Sign(ctx, request); return err }
	least := func() error { _, err := signingFloor.Sign(ctx, request); return err }
	same := func() error { _, err := floor.Sign(ctx, request); return err }
	for i := range signRounds + 1 {
		err := inTurn(i,
			func() error { return note(&s.Sign)(signFor(sign)) },
			func() error { return note(&s.Bare)(signFor(bare)) },
			func() error { return note(&s.Socket)(signFor(socket, program.process)) },
			func() error { return note(&s.SigningFloor)(signFor(least, signingFloor.process)) },
			func() error { return note(&s.Floor)(signFor(same, floor.process)) })
		if err != nil {
			return s, err
		}
	}
	// The first ones warmed up.
	s.Sign, s.Bare, s.Socket, s.Floor = s.Sign[1:], s.Bare[1:], s.Socket[1:], s.Floor[1:]
	s.SigningFloor = s.SigningFloor[1:]
	return s, nil
}

// writeKey makes a key directory with one key, which it returns.
func writeKey(dir string, algorithm v1alpha1.Algorithm) (crypto.Signer, error) {
	private, err := token.GenerateKey(rand.Reader, string(algorithm))
	if err != nil {
		return nil, err
	}
	key, err := keydir.NewKey(1, private)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	err = keydir.Write(filepath.Join(dir, "keys"), keydir.Set{
		SigningVersion: 1, RefreshHint: time.Hour, RotationRefreshHint: time.Second, MaxTokenExpiration: time.Hour, Keys: []keydir.Key{key},
	})
	return private, err
}

// newSigner returns a signer in this process that has given its keys away, and so may sign.
func newSigner(ctx context.Context, dir, ledgerFile string) (*signer.Signer, error) {
	s, err := signer.New(signer.Options{
		KeyDir: filepath.Join(dir, "keys"), LedgerFile: ledgerFile, ReloadInterval: time.Minute, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	_, err = s.FetchKeys(ctx, &externaljwt.FetchKeysRequest{})
	return s, err
}

// served is a signer on a socket, with one connection to it, as an API server has it.
type served struct {
	externaljwt.ExternalJWTSignerClient
	// process is the one that answers.
	process process
	end     func()
}

// startSigner starts the program. Its child answers.
func (p *place) startSigner(ctx context.Context, dir string) (*served, error) {
	socket := filepath.Join(dir, "signer", "socket")
	s, err := serveOn(ctx, socket, exec.CommandContext(ctx, filepath.Join(p.bin, "keyturn-signer"),
		"--socket="+socket, "--key-dir="+filepath.Join(dir, "keys")))
	if err != nil {
		return nil, err
	}
	if s.process, err = s.process.child(); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// serveOn starts a program that is to serve on a socket, and connects to it.
func serveOn(ctx context.Context, socket string, cmd *exec.Cmd) (*served, error) {
	log, err := os.Create(filepath.Dir(socket) + ".log")
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endGrace
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", cmd.Path, err), log.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, signerStart)
	defer cancel()
	client, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	s := &served{process: process{pid: cmd.Process.Pid}, end: func() {
		if client != nil {
			_ = client.Close()
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
	}}
	if err == nil {
		s.ExternalJWTSignerClient = externaljwt.NewExternalJWTSignerClient(client)
		_, err = s.FetchKeys(ctx, &externaljwt.FetchKeysRequest{}, grpc.WaitForReady(true))
	}
	if err != nil {
		s.end()
		return nil, fmt.Errorf("waiting for %s: %w", cmd.Path, err)
	}
	return s, nil
}

// signFor signs for a while, by as many as signClients at once, in this process and perhaps another one.
func signFor(sign func() error, other ...process) (Rate, error) {
	var over atomic.Bool
	var done atomic.Int64
	var mu sync.Mutex
	var errs []error
	used, err := allCPU(other)
	if err != nil {
		return Rate{}, err
	}
	began := time.Now()
	timer := time.AfterFunc(signTime, func() { over.Store(true) })
	defer timer.Stop()
	var work sync.WaitGroup
	for range signClients {
		work.Go(func() {
			var n int64
			var err error
			for err == nil && !over.Load() {
				err = sign()
				n++
			}
			done.Add(n)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	work.Wait()
	took := time.Since(began)
	after, err := allCPU(other)
	n := float64(done.Load())
	return Rate{PerSecond: n / took.Seconds(), PerCPUSecond: n / (after - used).Seconds()}, errors.Join(append(errs, err)...)
}

// allCPU is the processor time that this process and others have used.
func allCPU(others []process) (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("reading the processor time: %w", err)
	}
	sum := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	for _, p := range others {
		used, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}
