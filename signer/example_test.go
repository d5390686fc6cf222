package signer_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

// This example serves a key directory with one key, as kube-apiserver's --service-account-signing-endpoint wants it.
func Example() {
	dir, err := os.MkdirTemp("", "signer")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := writeKeys(filepath.Join(dir, "keys")); err != nil {
		log.Fatal(err)
	}

	s, err := signer.New(signer.Options{
		KeyDir:    filepath.Join(dir, "keys"),
		StateFile: filepath.Join(dir, "served.json"),
		Log:       slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()

	if err := useAsAPIServer(ctx, filepath.Join(dir, "socket")); err != nil {
		log.Fatal(err)
	}
	stop()
	fmt.Println("Serve returned", <-served)
	// Output:
	// the signer has 1 key
	// it signs with {"alg":"ES256","kid":"FETCHED","typ":"JWT"}
	// Serve returned <nil>
}

// writeKeys makes a key directory with a new key, which is to sign.
func writeKeys(dir string) error {
	private, err := token.GenerateKey(rand.Reader, jwks.ES256)
	if err != nil {
		return err
	}
	key, err := keydir.NewKey(1, private)
	if err != nil {
		return err
	}
	return keydir.Write(dir, keydir.Set{
		SigningVersion:      1,
		Keys:                []keydir.Key{key},
		RefreshHint:         time.Hour,
		RotationRefreshHint: keydir.DefaultRotationRefreshHint,
		MaxTokenExpiration:  24 * time.Hour,
	})
}

// useAsAPIServer does what a kube-apiserver does: it fetches the keys, and then has claims signed.
func useAsAPIServer(ctx context.Context, socket string) error {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := externaljwt.NewExternalJWTSignerClient(conn)
	keys, err := client.FetchKeys(ctx, &externaljwt.FetchKeysRequest{})
	if err != nil {
		return err
	}
	fmt.Println("the signer has", len(keys.Keys), "key")
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"https://issuer.example","sub":"web"}`))
	signed, err := client.Sign(ctx, &externaljwt.SignJWTRequest{Claims: claims})
	if err != nil {
		return err
	}
	header, err := base64.RawURLEncoding.DecodeString(signed.Header)
	if err != nil {
		return err
	}
	fmt.Println("it signs with", string(bytes.ReplaceAll(header, []byte(keys.Keys[0].KeyId), []byte("FETCHED"))))
	return nil
}
