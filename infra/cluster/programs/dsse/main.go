// Verifies DSSE envelopes with the library that in-toto's and Sigstore's Go programs use, and prints the payload.
//
//	dsse KEY.pem <ENVELOPE.json
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"
)

func main() {
	payload, err := opened(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(4)
	}
	os.Stdout.Write(payload)
}

func opened(keyFile string) ([]byte, error) {
	text := must(os.ReadFile(keyFile))
	key, err := signerverifier.LoadKey(text)
	if err != nil {
		return nil, err
	}
	// The library's own key id is a digest of another form of the key. Whoever makes envelopes says which they use:
	// here the one that `openssl pkey -outform der | sha256sum` gives.
	block, _ := pem.Decode(text)
	key.KeyID = fmt.Sprintf("%x", sha256.Sum256(block.Bytes))
	known, err := signerverifier.NewED25519SignerVerifierFromSSLibKey(key)
	if err != nil {
		return nil, err
	}
	verifier, err := dsse.NewEnvelopeVerifier(known)
	if err != nil {
		return nil, err
	}
	var envelope dsse.Envelope
	if err := json.NewDecoder(os.Stdin).Decode(&envelope); err != nil {
		return nil, err
	}
	if _, err := verifier.Verify(context.Background(), &envelope); err != nil {
		return nil, err
	}
	return envelope.DecodeB64Payload()
}

func must(data []byte, err error) []byte {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	return data
}
